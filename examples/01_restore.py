import retrodict

# a slice in HU (any of the files above, a series folder, an array or a tensor) and the two curves of its scanner
scanner = {"mtf": "demo/scanner-mtf.json", "nps": "demo/scanner-nps.json"}
result = retrodict.restore("demo/chest-1-measured.dcm", "restored", **scanner, samples=8, seed=0, force=True)

print(result.mean.values.shape, result.mean.unit)  # posterior mean, (1, H, W)
print(result.sd.values.mean())  # posterior standard deviation in the same unit
print(result.verdict.text)  # "posterior", or why not: every image is checked against the instrument
for path in result.files:  # DICOM with geometry kept, JSON record, HTML report
    print(path)
