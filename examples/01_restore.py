import retrodict

# a measured slice: values in HU, 1 mm pixels (any of the files above, a series folder, an array or a tensor)
result = retrodict.restore("demo/chest-1-measured.dcm", "restored", samples=8, steps=8, seed=0, force=True)

print(result.mean.values.shape, result.mean.unit)  # posterior mean, (1, H, W)
print(result.sd.values.mean())  # posterior standard deviation in the same unit
print(result.verdict.text)  # "posterior", or why not: every image is checked against the instrument
for path in result.files:  # DICOM with geometry kept, JSON record, HTML report
    print(path)
