package io.millstream.client;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonMappingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.millstream.client.RequestException.Problem;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Optional;
import java.util.regex.Pattern;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Headers;

/**
 * Turns a request into a record, in either spelling, and refuses what every node would refuse.
 *
 * <p>Source: the platform's {@code protocol/kafka/request.schema.json} and {@code protocol/kafka/}.
 */
final class RequestWriter {
  static final String REQUEST_TYPE = "io.millstream.pipeline.request.v1";

  private static final int MAX_CHARS = 200;
  private static final Duration LONGEST = Duration.ofSeconds(1_000_000_000);
  private static final Pattern TENANT = Pattern.compile("[A-Za-z0-9_-]{1,64}");
  private static final byte[] NO_PARAMS = "{}".getBytes(StandardCharsets.UTF_8);

  private final ClientSettings settings;
  private final ObjectMapper mapper;

  RequestWriter(ClientSettings settings) {
    this.settings = settings;
    mapper = settings.mapper();
  }

  /** A request as it is sent, and how long its caller waits. */
  record Written(String id, String pipeline, ProducerRecord<byte[], byte[]> record, Duration deadline) {}

  /**
   * Writes a request.
   *
   * @throws InvalidRequestException it cannot be a request; nothing is sent
   */
  Written write(PipelineRequest request) {
    String id = request.id().orElseGet(() -> Ulid.next(System.currentTimeMillis()));
    String tenant = request.tenant().orElse(settings.tenant());
    check(request, id, tenant);
    byte[] key = request.key().orElse(tenant).getBytes(StandardCharsets.UTF_8);
    boolean event = settings.spelling() == Spelling.CLOUD_EVENTS;
    byte[] value = event ? params(request, id) : plain(request, id, tenant);
    ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(settings.inputTopic(), key, value);
    if (event) {
      eventHeaders(record.headers(), request, id, tenant);
    }
    request.trace().or(settings.trace()).ifPresent(trace -> traceHeaders(record.headers(), trace));
    return new Written(id, request.pipeline(), record, deadline(request));
  }

  private Duration deadline(PipelineRequest request) {
    return request.deadline().or(() -> request.timeout().map(ClientSettings.GRACE::plus)).orElse(settings.deadline());
  }

  // --- the two spellings -----------------------------------------------------------------------------------------------------

  private byte[] plain(PipelineRequest request, String id, String tenant) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(256);
    try (JsonGenerator json = mapper.getFactory().createGenerator(bytes)) {
      json.writeStartObject();
      json.writeStringField("id", id);
      json.writeStringField("pipeline", request.pipeline());
      json.writeStringField("tenant", tenant);
      if (request.params() != null) {
        json.writeFieldName("params");
        json.flush();
        mapper.writeValue(json, request.params());
      }
      if (!settings.replyTo().isEmpty()) {
        json.writeStringField("reply_to", settings.replyTo());
      }
      if (request.timeout().isPresent()) {
        json.writeNumberField("timeout_s", request.timeout().get().toNanos() / 1e9);
      }
      if (!request.idempotencyKey().isEmpty()) {
        json.writeStringField("idempotency_key", request.idempotencyKey());
      }
      json.writeEndObject();
    } catch (JsonProcessingException error) {
      throw unwritable(error, id);
    } catch (IOException impossible) {
      throw new UncheckedIOException(impossible); // of an array in memory
    }
    return bytes.toByteArray();
  }

  private byte[] params(PipelineRequest request, String id) {
    try {
      return request.params() == null ? NO_PARAMS : mapper.writeValueAsBytes(request.params());
    } catch (JsonProcessingException error) {
      throw unwritable(error, id);
    }
  }

  /** Source: CloudEvents 1.0.2, Kafka protocol binding 3.2; the extensions are those of {@code protocol/kafka/}. */
  private void eventHeaders(Headers headers, PipelineRequest request, String id, String tenant) {
    Instant now = Instant.now().truncatedTo(ChronoUnit.MILLIS);
    add(headers, "content-type", "application/json");
    add(headers, "ce_specversion", "1.0");
    add(headers, "ce_id", id);
    add(headers, "ce_source", "/millstream-java/" + settings.client());
    add(headers, "ce_type", REQUEST_TYPE);
    add(headers, "ce_subject", request.pipeline());
    add(headers, "ce_time", now.toString());
    add(headers, "ce_tenant", tenant);
    request.timeout().ifPresent(timeout -> add(headers, "ce_expirytime", now.plus(timeout).toString()));
    if (!settings.replyTo().isEmpty()) {
      add(headers, "ce_replyto", settings.replyTo());
    }
    if (!request.idempotencyKey().isEmpty()) {
      add(headers, "ce_idempotencykey", request.idempotencyKey());
    }
  }

  private static void traceHeaders(Headers headers, TraceContext trace) {
    add(headers, "traceparent", trace.traceparent());
    if (!trace.tracestate().isEmpty()) {
      add(headers, "tracestate", trace.tracestate());
    }
  }

  private static void add(Headers headers, String name, String value) {
    headers.add(name, value.getBytes(StandardCharsets.UTF_8));
  }

  // --- what is refused -------------------------------------------------------------------------------------------------------

  private static void check(PipelineRequest request, String id, String tenant) {
    int idChars = chars(id);
    if (idChars < 1 || idChars > MAX_CHARS) {
      throw refused("an id has 1 to 200 characters, this one has " + idChars, "$.id", "");
    }
    if (!TENANT.matcher(tenant).matches()) {
      throw refused("'" + tenant + "' is no tenant name: letters, digits, - and _, 1 to 64", "$.tenant", id);
    }
    if (request.pipeline().isEmpty() || chars(request.pipeline()) > MAX_CHARS) {
      throw refused("pipeline is a name of 1 to 200 characters", "$.pipeline", id);
    }
    if (chars(request.idempotencyKey()) > MAX_CHARS) {
      throw refused("an idempotencyKey has at most 200 characters", "$.idempotency_key", id);
    }
    checkTime("timeout", request.timeout(), "$.timeout_s", id);
    checkTime("deadline", request.deadline(), "", id);
  }

  /** A millisecond is what both spellings can say. */
  private static void checkTime(String name, Optional<Duration> given, String path, String id) {
    given.ifPresent(
        time -> {
          if (time.compareTo(Duration.ofMillis(1)) < 0 || time.compareTo(LONGEST) >= 0) {
            throw refused("a %s is 1 ms or longer, and below 1e9 s; this is %s".formatted(name, time), path, id);
          }
        });
  }

  /** Characters as the platform counts them: an emoji is one. */
  private static int chars(String text) {
    return text.codePointCount(0, text.length());
  }

  private static InvalidRequestException refused(String message, String path, String id) {
    return new InvalidRequestException(new Problem("bad_request", message, path, "correct the request", id), (Throwable) null);
  }

  private static InvalidRequestException unwritable(JsonProcessingException error, String id) {
    String path = error instanceof JsonMappingException mapping ? JsonPaths.of(mapping) : "$";
    String mend = "give a record, a map or a JsonNode, or a mapper that can write it";
    return new InvalidRequestException(new Problem("bad_parameters", error.getOriginalMessage(), path, mend, id), error);
  }
}
