# The demo, the benchmarks and the chaos harness: all drive the command `millstream` that `make setup` leaves.
DATA ?=
NAME ?=
SECONDS ?= 125
SEED ?= 1
QUICK ?=
RECORD ?=
FROM ?=
LOG ?= embedded
KINDS ?=
NODES ?=
RATE ?=

.PHONY: demo bench chaos
demo: setup ## the main job on real input, proved at the end; DATA=folder takes your own metrics/*.csv
	@$(BIN)/python -m examples.anomaly.demo $(if $(DATA),--data $(DATA))

bench: setup $(if $(filter mlflow-away all,$(NAME)),mlflow) ## measure the figures: NAME=all or of the list that NAME=help shows; QUICK=1 for fewer repeats; kafka-rolling: FROM=0.1.0-kafka
	@$(BIN)/python -m benchmarks.run $(or $(NAME),--help) $(if $(QUICK),--quick) $(if $(RECORD),--record $(RECORD)) $(if $(FROM),--from $(FROM))

chaos: setup $(if $(filter kafka,$(LOG)),kafka-jars postgres) ## kill under load and count: SECONDS=125 SEED=1; LOG=kafka: KINDS=node_kill,... (all) NODES=3 RATE=100
	@$(BIN)/python -m chaos --seconds $(SECONDS) --seed $(SEED) --log $(LOG) $(if $(KINDS),--kinds $(KINDS)) \
	  $(if $(NODES),--nodes $(NODES)) $(if $(RATE),--rate $(RATE))
