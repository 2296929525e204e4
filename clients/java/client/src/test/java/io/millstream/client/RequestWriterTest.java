package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.junit.jupiter.api.Test;

/** How requests are written. */
class RequestWriterTest {
  private static final TraceContext TRACE = new TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=b");

  record Question(String sensor, double value) {}

  /** A request that says nothing but its pipeline takes the rest from the settings. */
  @Test
  void whatIsNotSaidComesFromTheSettings() {
    RequestWriter writer = writer(Map.of("millstream.client", "billing", "millstream.tenant", "acme"));

    RequestWriter.Written written = writer.write(PipelineRequest.of("detect"));

    JsonNode value = Golden.parse(written.record().value());
    assertEquals("ml.pipeline.input", written.record().topic());
    assertEquals("acme", new String(written.record().key(), StandardCharsets.UTF_8));
    assertEquals("acme", value.path("tenant").asText());
    assertEquals("ml.reply.billing", value.path("reply_to").asText());
    assertEquals(26, written.id().length());
    assertEquals(Duration.ofMinutes(1), written.deadline());
    assertFalse(value.has("timeout_s") || value.has("params") || value.has("idempotency_key"));
    assertEquals(Map.of(), headers(written.record()));
  }

  /** Requests whose result goes to the shared output topic name no reply topic. */
  @Test
  void repliesOnTheOutputTopicNeedNoName() {
    JsonNode value = Golden.parse(writer(Map.of("millstream.replies", "output")).write(PipelineRequest.of("detect")).record().value());

    assertFalse(value.has("reply_to"));
  }

  /** An explicit key wins over the tenant. */
  @Test
  void explicitKeyWins() {
    RequestWriter.Written written = writer(Map.of()).write(PipelineRequest.of("detect").tenant("acme").key("door 7"));

    assertEquals("door 7", new String(written.record().key(), StandardCharsets.UTF_8));
  }

  /** A caller with a timeout waits a little longer than the platform tries, unless it says otherwise. */
  @Test
  void deadlineFollowsTheTimeout() {
    PipelineRequest request = PipelineRequest.of("detect").timeout(Duration.ofSeconds(2));

    assertEquals(Duration.ofSeconds(7), writer(Map.of()).write(request).deadline());
    assertEquals(Duration.ofSeconds(1), writer(Map.of()).write(request.deadline(Duration.ofSeconds(1))).deadline());
  }

  /** A CloudEvent carries the attributes as headers and nothing but the parameters as value. */
  @Test
  void cloudEventHasAttributesAsHeaders() {
    RequestWriter writer = writer(Map.of("millstream.spelling", "cloudevents", "millstream.client", "billing"));
    PipelineRequest request =
        PipelineRequest.of("detect", new Question("door", 21.5))
            .id("e-1")
            .tenant("acme")
            .timeout(Duration.ofMillis(2500))
            .idempotencyKey("k")
            .trace(TRACE);

    ProducerRecord<byte[], byte[]> record = writer.write(request).record();

    Map<String, String> headers = headers(record);
    assertEquals("{\"sensor\":\"door\",\"value\":21.5}", new String(record.value(), StandardCharsets.UTF_8));
    Instant time = Instant.parse(headers.remove("ce_time"));
    assertEquals(Duration.ofMillis(2500), Duration.between(time, Instant.parse(headers.remove("ce_expirytime"))));
    Map<String, String> expected =
        Map.of(
            "content-type", "application/json",
            "ce_specversion", "1.0",
            "ce_id", "e-1",
            "ce_source", "/millstream-java/billing",
            "ce_type", "io.millstream.pipeline.request.v1",
            "ce_subject", "detect",
            "ce_tenant", "acme",
            "ce_replyto", "ml.reply.billing",
            "ce_idempotencykey", "k");
    Map<String, String> traced = new LinkedHashMap<>(expected);
    traced.put("traceparent", TRACE.traceparent());
    traced.put("tracestate", "a=b");
    assertEquals(traced, headers);
  }

  /** A CloudEvent without parameters still has a value: without one it would be a tombstone. */
  @Test
  void cloudEventWithoutParametersHasAValue() {
    ProducerRecord<byte[], byte[]> record = writer(Map.of("millstream.spelling", "cloudevents")).write(PipelineRequest.of("detect")).record();

    assertEquals("{}", new String(record.value(), StandardCharsets.UTF_8));
  }

  /** The trace context of the calling thread is sent where the request brings none. */
  @Test
  void traceContextOfTheThreadIsTheDefault() {
    RequestWriter writer = new RequestWriter(settings(Map.of()).trace(() -> Optional.of(TRACE)));
    TraceContext own = TraceContext.of("00-00000000000000000000000000000001-0000000000000001-00");

    assertEquals(TRACE.traceparent(), headers(writer.write(PipelineRequest.of("a")).record()).get("traceparent"));
    assertEquals(own.traceparent(), headers(writer.write(PipelineRequest.of("a").trace(own)).record()).get("traceparent"));
  }

  /** A value that the JSON library cannot write is the caller's to mend, and named. */
  @Test
  void unwritableParametersAreRefusedWithTheirPlace() {
    record Holder(Object inner) {}
    class Unwritable {
      @SuppressWarnings("unused")
      public String getName() {
        throw new IllegalStateException("nameless");
      }
    }

    for (String spelling : new String[] {"plain", "cloudevents"}) {
      RequestWriter writer = writer(Map.of("millstream.spelling", spelling));
      PipelineRequest request = PipelineRequest.of("detect", new Holder(new Unwritable())).id("1");
      InvalidRequestException refused = assertThrows(InvalidRequestException.class, () -> writer.write(request));
      assertEquals("bad_parameters", refused.code());
      assertEquals("$.inner.name", refused.path());
    }
  }

  /** A request is a template: what is set on one leaves the one that it came from as it was. */
  @Test
  void requestsAreImmutable() {
    PipelineRequest template = PipelineRequest.of("detect").id("1");

    template.tenant("acme").timeout(Duration.ofSeconds(1)).key("k").idempotencyKey("i").params(3).id("2");

    assertEquals(Optional.of("1"), template.id());
    assertEquals(Optional.empty(), template.tenant());
    assertEquals(Optional.empty(), template.timeout());
    assertEquals(Optional.empty(), template.key());
  }

  /** An emoji is one character here as it is for the platform. */
  @Test
  void charactersAreCountedAsThePlatformCountsThem() {
    String longest = "😀".repeat(200);

    assertEquals(longest, writer(Map.of()).write(PipelineRequest.of("detect").id(longest)).id());
    assertThrows(InvalidRequestException.class, () -> writer(Map.of()).write(PipelineRequest.of("detect").id(longest + "!")));
  }

  /** Ids sort by the time they were made at, and are never the same. */
  @Test
  void idsSortByTime() {
    String earlier = Ulid.next(1_795_000_000_000L);
    String later = Ulid.next(1_795_000_000_001L);

    assertTrue(earlier.compareTo(later) < 0);
    // As `millstream_server.core.ids.new_id` spells this moment.
    assertEquals("01M7Q5CQG0", earlier.substring(0, 10));
    assertTrue(earlier.matches("[0-9A-HJKMNP-TV-Z]{26}"));
    assertEquals(1000, java.util.stream.Stream.generate(() -> Ulid.next(0)).limit(1000).distinct().count());
  }

  private static Map<String, String> headers(ProducerRecord<byte[], byte[]> record) {
    Map<String, String> headers = new LinkedHashMap<>();
    for (Header header : record.headers()) {
      headers.put(header.key(), new String(header.value(), StandardCharsets.UTF_8));
    }
    return headers;
  }

  private static RequestWriter writer(Map<String, String> properties) {
    return new RequestWriter(settings(properties));
  }

  private static ClientSettings settings(Map<String, String> given) {
    Properties properties = new Properties();
    properties.setProperty("bootstrap.servers", "localhost:9");
    properties.putAll(given);
    return ClientSettings.of(properties);
  }
}
