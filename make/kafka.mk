# Kafka from its Maven artifacts: for the tests, and one broker for a developer.
PORT ?= 9092
KAFKA_JARS := .kafka/libs/.ready

.PHONY: java kafka-jars kafka kafka-stop kafka-clean
java: ## Java 17 or newer and Maven: installed by apt where we may, else the command to run is said
	@deploy/kafka/require-java

# What Maven downloads must fit the repository's sums, and be what was tested: jars.sha256. After a change of the pom it is written anew
# by `cd .kafka/libs && sha256sum *.jar > ../../deploy/kafka/jars.sha256`.
$(KAFKA_JARS): deploy/kafka/pom.xml deploy/kafka/jars.sha256 | java
	@rm -rf $(@D)
	mvn --batch-mode --quiet --strict-checksums -f deploy/kafka/pom.xml dependency:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D)
	cd $(@D) && sha256sum --quiet --strict --check ../../deploy/kafka/jars.sha256
	@touch $@

kafka-jars: setup java $(KAFKA_JARS) ## Kafka's jars, and what makes a broker start in two seconds, into .kafka
	@$(BIN)/python -m blackbox.kafka_dev prepare

test-python: kafka-jars

kafka: kafka-jars ## start a Kafka broker that stays, on PORT=9092, data in .kafka/data
	@$(BIN)/python -m blackbox.kafka_dev start --port $(PORT)

kafka-stop: setup ## stop that broker, keep its data
	@$(BIN)/python -m blackbox.kafka_dev stop

kafka-clean: setup ## remove that broker's data
	@$(BIN)/python -m blackbox.kafka_dev clean
