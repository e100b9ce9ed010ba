import retrodict

# a measured slice: values in HU, 1 mm pixels (DICOM, NIfTI, TIFF, PNG, npz or a series folder)
result = retrodict.restore("demo/abdomen-1-measured.dcm", "restored", samples=8, steps=8, seed=0, force=True)

print(result.mean.values.shape, result.mean.unit)  # posterior mean, (1, H, W)
print(result.sd.values.mean())  # posterior standard deviation in the same unit
print(result.reason)  # why this may be called a posterior
for path in result.files:  # DICOM with geometry kept, JSON record, HTML report
    print(path)
