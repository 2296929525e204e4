# Kafka's own programs: for the test that plays a caller in another language, and for whoever has no installation of Kafka.
KAFKA_TOOLS := .kafka/tools/.ready
KAFKA_PROGRAMS := $(addprefix .kafka/bin/,kafka-topics.sh kafka-console-producer.sh kafka-console-consumer.sh kafka-consumer-groups.sh)

.PHONY: kafka-tools
# Kept apart from the broker's jars, whose archive of parsed classes fits exactly one class path.
$(KAFKA_TOOLS): deploy/kafka-tools/pom.xml deploy/kafka-tools/jars.sha256 | java
	@rm -rf $(@D)
	mvn --batch-mode --quiet --strict-checksums -f deploy/kafka-tools/pom.xml dependency:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D)
	cd $(@D) && sha256sum --quiet --strict --check ../../deploy/kafka-tools/jars.sha256
	@touch $@

$(KAFKA_PROGRAMS): deploy/kafka-tools/program
	@mkdir -p $(@D) && install -m 755 $< $@

kafka-tools: kafka-jars $(KAFKA_TOOLS) $(KAFKA_PROGRAMS) ## Kafka's own programs into .kafka/bin: topics, producer, consumer, groups

test-python: kafka-tools
