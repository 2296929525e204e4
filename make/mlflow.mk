# A plain MLflow of an environment of its own: the server of the mirror's tests, and the client that looks at what was mirrored.
MLFLOW := .mlflow/.ready

.PHONY: mlflow
$(MLFLOW): deploy/mlflow/requirements.lock | $(UV)
	@rm -rf $(@D) && mkdir -p $(@D)
	$(UV) venv --quiet --python $(BIN)/python $(@D)/venv
	$(UV) pip sync --quiet --python $(@D)/venv/bin/python --require-hashes deploy/mlflow/requirements.lock
	@touch $@

mlflow: setup $(MLFLOW) ## a plain MLflow, server and client, into .mlflow

test-python: mlflow
