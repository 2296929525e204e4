# Kafka's console producer and consumer, for the test that plays a caller in another language.
KAFKA_TOOLS := .kafka/tools/.ready

.PHONY: kafka-tools
# Kept apart from the broker's jars, whose archive of parsed classes fits exactly one class path.
$(KAFKA_TOOLS): deploy/kafka-tools/pom.xml deploy/kafka-tools/jars.sha256 | java
	@rm -rf $(@D)
	mvn --batch-mode --quiet --strict-checksums -f deploy/kafka-tools/pom.xml dependency:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D)
	cd $(@D) && sha256sum --quiet --strict --check ../../deploy/kafka-tools/jars.sha256
	@touch $@

kafka-tools: kafka-jars $(KAFKA_TOOLS) ## Kafka's console producer and consumer into .kafka

test: kafka-tools
