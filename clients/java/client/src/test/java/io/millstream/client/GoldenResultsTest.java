package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.Test;

/** Results as version 0.1.0 wrote them are understood as they were meant. */
class GoldenResultsTest {
  private static final String TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

  /** Every member of an ok result arrives, its value as the type that was asked for. */
  @Test
  void okResultArrivesWhole() {
    byte[] golden = Golden.bytes("messages-0.1.0/result-ok.json");

    PipelineResult<boolean[]> result = PipelineResult.parse(golden, Map.of("traceparent", TRACEPARENT), boolean[].class);

    assertEquals("1", result.id());
    assertEquals("detect", result.pipeline());
    assertEquals("acme", result.tenant());
    assertEquals(Status.OK, result.status());
    assertEquals(1, result.value().length);
    assertTrue(result.value()[0]);
    assertEquals(new RecordRef("ml.pipeline.input", 3, 41), result.record());
    assertEquals("node-1", result.node());
    assertEquals(1, result.attempt());
    assertEquals("anomaly==1.0.0", result.release());
    assertEquals("1.0.0+0123456789ab", result.buildId());
    assertEquals("acme.anomaly", result.model());
    assertEquals(1, result.modelVersion());
    assertEquals(new PipelineResult.Durations(0.01, 0, 0.002), result.durations());
    assertEquals("", result.run());
    assertEquals(Optional.empty(), result.replayOf());
    assertEquals(Optional.of(TraceContext.of(TRACEPARENT)), result.trace());
    assertEquals(Golden.parse(golden), result.json());
  }

  /** An invalid result is the exception of its status, with everything that the platform said. */
  @Test
  void invalidResultIsAnException() {
    byte[] golden = Golden.bytes("messages-0.1.0/result-invalid.json");

    InvalidRequestException refused =
        assertThrows(InvalidRequestException.class, () -> PipelineResult.parse(golden, Map.of(), JsonNode.class));

    assertEquals("no_model", refused.code());
    assertEquals("tenant acme has no model anomaly", refused.getMessage());
    assertEquals("", refused.path());
    assertEquals("train it: millstream invoke train --tenant acme", refused.mend());
    assertEquals("1", refused.requestId());
    assertEquals("node-1", refused.result().orElseThrow().node());
    assertNull(refused.result().orElseThrow().value());
    assertEquals(
        "InvalidRequestException: error[no-model]: tenant acme has no model anomaly (request 1); mend: train it: millstream invoke"
            + " train --tenant acme",
        refused.toString());
  }

  /** Each status has its class; one that a later platform adds is a RequestException. */
  @Test
  void everyStatusHasItsException() {
    Map<String, Class<?>> expected =
        Map.of(
            "invalid", InvalidRequestException.class,
            "failed", FailedException.class,
            "expired", ExpiredException.class,
            "dead", DeadException.class,
            "cancelled", CancelledException.class,
            "postponed", RequestException.class);

    expected.forEach(
        (status, type) -> {
          RequestException ended =
              assertThrows(RequestException.class, () -> PipelineResult.parse(result(status, "\"error\":{\"code\":\"c\"}"), Map.of(), JsonNode.class));
          assertEquals(type, ended.getClass());
          assertEquals("c", ended.code());
        });
  }

  /** Members that are not known are passed over, and a head is found wherever id and record stand. */
  @Test
  void laterMembersAreNoFault() {
    byte[] later =
        "{\"novel\":{\"id\":\"x\"},\"record\":{\"topic\":\"t\",\"partition\":2,\"offset\":9,\"epoch\":[1]},\"status\":\"ok\",\"result\":3,\"id\":\"7\"}"
            .getBytes(StandardCharsets.UTF_8);
    ResultReader reader = new ResultReader(ClientSettings.defaultMapper());

    assertEquals(Optional.of(new ResultReader.Head("7", new RecordRef("t", 2, 9))), reader.head(later));
    assertEquals(3, PipelineResult.parse(later, Map.of(), Integer.class).value());
  }

  /** What is no result at all has no head, and says so when it is read. */
  @Test
  void otherRecordsAreNoResults() {
    ResultReader reader = new ResultReader(ClientSettings.defaultMapper());

    for (String text : new String[] {"", "[]", "{\"id\":\"1\"}", "{\"id\":1,\"record\":{}}", "{\"id\":\"1\"", "\u0000"}) {
      byte[] value = text.getBytes(StandardCharsets.UTF_8);
      assertEquals(Optional.empty(), reader.head(value));
      assertThrows(ResultTypeException.class, () -> reader.read(value, Map.of()));
    }
    assertEquals(Optional.empty(), reader.head(null));
  }

  /** A value that does not fit the type is told with its place, and the result itself is not lost. */
  @Test
  void valueOfAnotherTypeIsToldWithItsPlace() {
    record Verdict(double score) {}
    byte[] value = result("ok", "\"result\":[{\"score\":1.5},{\"score\":\"high\"}]");

    ResultTypeException error = assertThrows(ResultTypeException.class, () -> PipelineResult.parse(value, Map.of(), Verdict[].class));

    assertEquals("unexpected_type", error.code());
    assertEquals("$[1].score", error.path());
    assertEquals("high", error.result().orElseThrow().value().path(1).path("score").asText());
  }

  private static byte[] result(String status, String rest) {
    String text =
        "{\"id\":\"1\",\"pipeline\":\"p\",\"tenant\":\"t\",\"status\":\"%s\",\"record\":{\"topic\":\"t\",\"partition\":0,\"offset\":0},\"node\":\"n\",\"attempt\":1,%s}";
    return text.formatted(status, rest).getBytes(StandardCharsets.UTF_8);
  }
}
