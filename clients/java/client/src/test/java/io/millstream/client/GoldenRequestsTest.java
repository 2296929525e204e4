package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** What the platform accepts this client can write, and what the platform refuses it does not send. */
class GoldenRequestsTest {
  private static final String REQUESTS = "messages-0.1.0/requests.json";

  /** Every golden request that is one is written again, with the same meaning. */
  @TestFactory
  Stream<DynamicTest> acceptedRequestsAreWrittenWithTheSameMeaning() {
    return cases("request").map(
        golden ->
            DynamicTest.dynamicTest(
                golden.path("name").asText(),
                () -> {
                  JsonNode written = Golden.parse(writer(golden).write(request(golden)).record().value());

                  assertEquals(golden.path("id"), written.path("id"));
                  assertEquals(golden.path("pipeline"), written.path("pipeline"));
                  assertEquals(golden.path("tenant"), written.path("tenant"));
                  assertEquals(Golden.JSON.readTree(golden.path("params").asText()), written.path("params"));
                  assertEquals(golden.path("reply_to").asText(), written.path("reply_to").asText());
                  assertEquals(golden.path("timeout_s").asDouble(), written.path("timeout_s").asDouble());
                  assertEquals(golden.path("idempotency_key").asText(), written.path("idempotency_key").asText());
                }));
  }

  /** Golden requests whose fields break a rule are refused before they are sent, with the code and path of the platform. */
  @TestFactory
  Stream<DynamicTest> requestsThatBreakARuleAreRefusedWithTheSamePath() {
    List<String> sayable = List.of("$.tenant", "$.timeout_s");
    return cases("invalid")
        .filter(golden -> sayable.contains(golden.path("path").asText()) && Golden.parse(value(golden)).path("timeout_s").asDouble() <= 0)
        .filter(golden -> !Golden.parse(value(golden)).path("timeout_s").isTextual())
        .map(
            golden ->
                DynamicTest.dynamicTest(
                    golden.path("name").asText(),
                    () -> {
                      InvalidRequestException refused =
                          assertThrows(InvalidRequestException.class, () -> writer(golden).write(request(golden)));

                      assertEquals(golden.path("code").asText(), refused.code());
                      assertEquals(golden.path("path").asText(), refused.path());
                      assertEquals(golden.path("id").asText(), refused.requestId());
                    }));
  }

  /** An empty id is nobody's: the platform could not even answer it. */
  @Test
  void emptyIdIsRefused() {
    RequestWriter writer = new RequestWriter(ClientSettings.of("localhost:9", "test"));

    InvalidRequestException refused =
        assertThrows(InvalidRequestException.class, () -> writer.write(PipelineRequest.of("detect").id("")));

    assertEquals("$.id", refused.path());
  }

  /** NaN goes out as the golden request has it, bare: the platform answers it, and names its place. */
  @Test
  void notANumberGoesOutBareSoThatItIsRefusedWithItsPlace() {
    RequestWriter writer = new RequestWriter(ClientSettings.of("localhost:9", "test"));

    byte[] written = writer.write(PipelineRequest.of("detect", Map.of("x", Double.NaN)).id("1")).record().value();

    assertTrue(new String(written, StandardCharsets.UTF_8).contains("\"params\":{\"x\":NaN}"));
  }

  private static Stream<JsonNode> cases(String verdict) {
    List<JsonNode> found = new ArrayList<>();
    Golden.json(REQUESTS).forEach(found::add);
    return found.stream().filter(golden -> golden.path("verdict").asText().equals(verdict) && !golden.path("name").asText().equals("NaN"));
  }

  private static byte[] value(JsonNode golden) {
    return Base64.getDecoder().decode(golden.path("value_base64").asText());
  }

  private static RequestWriter writer(JsonNode golden) {
    Properties properties = new Properties();
    properties.setProperty("bootstrap.servers", "localhost:9");
    String replyTo = Golden.parse(value(golden)).path("reply_to").asText("");
    properties.setProperty("millstream.replies", replyTo.isEmpty() ? "output" : replyTo);
    return new RequestWriter(ClientSettings.of(properties));
  }

  private static PipelineRequest request(JsonNode golden) {
    JsonNode asked = Golden.parse(value(golden));
    PipelineRequest request = PipelineRequest.of(asked.path("pipeline").asText()).id(asked.path("id").asText());
    // "No params" and "{}" are one request.
    request = request.params(asked.has("params") ? asked.path("params") : Golden.JSON.createObjectNode());
    if (asked.has("tenant")) {
      request = request.tenant(asked.path("tenant").asText());
    }
    if (asked.has("timeout_s")) {
      request = request.timeout(Duration.ofNanos((long) (asked.path("timeout_s").asDouble() * 1e9)));
    }
    return asked.has("idempotency_key") ? request.idempotencyKey(asked.path("idempotency_key").asText()) : request;
  }
}
