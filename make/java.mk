# The Java client: its tests run against a broker and a node of their own.
.PHONY: test-java javadoc
test-java: setup kafka-jars ## the Java client against a real broker and real nodes
	$(BIN)/python -m clients.java.harness.run

javadoc: java ## the Java client's pages, into clients/java/client/target/reports/apidocs
	mvn -q -B -f clients/java/pom.xml -pl client compile javadoc:javadoc
