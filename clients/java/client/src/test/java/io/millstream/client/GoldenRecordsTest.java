package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** Every golden request, whatever its spelling, can be said by this client in both of its own, and then means the same. */
class GoldenRecordsTest {

  /** Said in plain JSON, the members are those that the golden record was understood as. */
  @TestFactory
  Stream<DynamicTest> goldenRequestsAreSaidInPlainJson() {
    return requests(
        golden -> {
          ProducerRecord<byte[], byte[]> record = write(golden, "plain");

          JsonNode value = Golden.parse(record.value());
          assertEquals(golden.path("id"), value.path("id"));
          assertEquals(golden.path("pipeline"), value.path("pipeline"));
          assertEquals(golden.path("tenant"), value.path("tenant"));
          assertEquals(Golden.JSON.readTree(golden.path("params").asText()), value.path("params"));
          assertEquals(golden.path("reply_to").asText(), value.path("reply_to").asText());
          assertEquals(golden.path("timeout_s").asDouble(), value.path("timeout_s").asDouble());
          assertEquals(golden.path("idempotency_key").asText(), value.path("idempotency_key").asText());
          assertEquals(0, record.headers().toArray().length);
        });
  }

  /** Said as a CloudEvent, the attributes are those of the golden binary events, byte for byte but for the times. */
  @TestFactory
  Stream<DynamicTest> goldenRequestsAreSaidAsCloudEvents() {
    Map<String, String> complete = headers(Golden.json("kafka-v1/records.json").path(3).path("record").path("headers"));
    assertTrue(complete.containsKey("ce_idempotencykey"), "the fourth golden record has all attributes");
    return requests(
        golden -> {
          ProducerRecord<byte[], byte[]> record = write(golden, "cloudevents");

          Map<String, String> headers = new HashMap<>();
          for (Header header : record.headers()) {
            headers.put(header.key(), new String(header.value(), StandardCharsets.UTF_8));
          }
          Instant time = Instant.parse(headers.get("ce_time"));
          String expiry = headers.getOrDefault("ce_expirytime", time.toString());
          assertEquals(golden.path("timeout_s").asDouble(), Duration.between(time, Instant.parse(expiry)).toMillis() / 1000.0);
          assertEquals(golden.path("id").asText(), headers.get("ce_id"));
          assertEquals(golden.path("pipeline").asText(), headers.get("ce_subject"));
          assertEquals(golden.path("tenant").asText(), headers.get("ce_tenant"));
          assertEquals(golden.path("reply_to").asText(), headers.getOrDefault("ce_replyto", ""));
          assertEquals(golden.path("idempotency_key").asText(), headers.getOrDefault("ce_idempotencykey", ""));
          assertEquals(complete.get("ce_type"), headers.get("ce_type"));
          assertEquals(complete.get("ce_specversion"), headers.get("ce_specversion"));
          assertEquals(complete.get("content-type"), headers.get("content-type"));
          assertTrue(complete.keySet().containsAll(headers.keySet()), () -> "names that no golden record has: " + headers.keySet());
          assertEquals(Golden.JSON.readTree(golden.path("params").asText()), Golden.parse(record.value()));
        });
  }

  private interface Check {
    void of(JsonNode golden) throws Exception;
  }

  private static Stream<DynamicTest> requests(Check check) {
    return StreamSupport.stream(Golden.json("kafka-v1/records.json").spliterator(), false)
        .filter(golden -> golden.path("verdict").asText().equals("request"))
        .map(golden -> DynamicTest.dynamicTest(golden.path("name").asText(), () -> check.of(golden)));
  }

  private static ProducerRecord<byte[], byte[]> write(JsonNode golden, String spelling) {
    Properties properties = new Properties();
    properties.setProperty("bootstrap.servers", "localhost:9");
    properties.setProperty("millstream.spelling", spelling);
    String replyTo = golden.path("reply_to").asText();
    properties.setProperty("millstream.replies", replyTo.isEmpty() ? "output" : replyTo);
    PipelineRequest request =
        PipelineRequest.of(golden.path("pipeline").asText(), Golden.parse(golden.path("params").asText().getBytes(StandardCharsets.UTF_8)))
            .id(golden.path("id").asText())
            .tenant(golden.path("tenant").asText())
            .idempotencyKey(golden.path("idempotency_key").asText());
    double timeoutS = golden.path("timeout_s").asDouble();
    if (timeoutS > 0) {
      request = request.timeout(Duration.ofNanos((long) (timeoutS * 1e9)));
    }
    return new RequestWriter(ClientSettings.of(properties)).write(request).record();
  }

  private static Map<String, String> headers(JsonNode json) {
    Map<String, String> found = new HashMap<>();
    json.properties().forEach(entry -> found.put(entry.getKey(), entry.getValue().asText()));
    return found;
  }
}
