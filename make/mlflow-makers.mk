# Environments of MLflow 2 and MLflow 3, and models that plain scripts logged in them: for the tests of what was made elsewhere.
MLFLOW_MAKERS := .mlflow-makers/2/.ready .mlflow-makers/3/.ready

.PHONY: mlflow-makers
.mlflow-makers/%/.ready: tests/mlflow_makers/mlflow%.lock tests/mlflow_makers/make_models_mlflow%.py | setup
	@rm -rf $(@D)/models* $(@D)/code $(@D)/*.db && mkdir -p $(@D)
	$(UV) venv --quiet --allow-existing --python $(BIN)/python $(@D)/env
	$(UV) pip sync --quiet --python $(@D)/env/bin/python --require-hashes --only-binary :all: tests/mlflow_makers/mlflow$*.lock
	cd $(@D) && MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
	  timeout 300 env/bin/python $(CURDIR)/tests/mlflow_makers/make_models_mlflow$*.py models
	@touch $@

mlflow-makers: setup $(MLFLOW_MAKERS) ## environments of MLflow 2 and 3, and models logged in them by plain scripts, into .mlflow-makers

test-python: mlflow-makers
