package io.millstream.client;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.JsonMappingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.Map;
import java.util.Optional;

/**
 * Understands results. Members that are not known are passed over: a later platform may say more.
 *
 * <p>Source: the platform's {@code protocol/kafka/result.schema.json}.
 */
final class ResultReader {
  private final ObjectMapper mapper;

  ResultReader(ObjectMapper mapper) {
    this.mapper = mapper;
  }

  /** Whose result this is: all that the reading thread looks at. */
  record Head(String id, RecordRef record) {}

  JavaType typeOf(Class<?> type) {
    return mapper.constructType(type);
  }

  JavaType typeOf(TypeReference<?> type) {
    return mapper.getTypeFactory().constructType(type);
  }

  /** The head of a result, read no further than it reaches; empty where the bytes are no result. */
  Optional<Head> head(byte[] value) {
    if (value == null) {
      return Optional.empty();
    }
    String id = null;
    RecordRef record = null;
    try (JsonParser json = mapper.getFactory().createParser(value)) {
      if (json.nextToken() != JsonToken.START_OBJECT) {
        return Optional.empty();
      }
      while ((id == null || record == null) && json.nextToken() == JsonToken.FIELD_NAME) {
        String name = json.currentName();
        JsonToken token = json.nextToken();
        if (name.equals("id") && token == JsonToken.VALUE_STRING) {
          id = json.getText();
        } else if (name.equals("record") && token == JsonToken.START_OBJECT) {
          record = recordAt(json);
        } else {
          json.skipChildren();
        }
      }
    } catch (IOException notJson) {
      return Optional.empty();
    }
    return id == null || record == null ? Optional.empty() : Optional.of(new Head(id, record));
  }

  private static RecordRef recordAt(JsonParser json) throws IOException {
    String topic = "";
    int partition = -1;
    long offset = -1;
    while (json.nextToken() == JsonToken.FIELD_NAME) {
      String name = json.currentName();
      JsonToken token = json.nextToken();
      if (name.equals("topic") && token == JsonToken.VALUE_STRING) {
        topic = json.getText();
      } else if (name.equals("partition") && token == JsonToken.VALUE_NUMBER_INT) {
        partition = json.getIntValue();
      } else if (name.equals("offset") && token == JsonToken.VALUE_NUMBER_INT) {
        offset = json.getLongValue();
      } else {
        json.skipChildren();
      }
    }
    return new RecordRef(topic, partition, offset);
  }

  /**
   * The whole result, its value still JSON, whatever its status.
   *
   * @throws ResultTypeException the bytes are no result
   */
  PipelineResult<JsonNode> read(byte[] value, Map<String, String> headers) {
    JsonNode json;
    try {
      json = mapper.readTree(value);
    } catch (IOException error) {
      throw new ResultTypeException("the record is no result: " + error.getMessage(), "$", "", null, error);
    }
    if (json == null || !json.path("id").isTextual() || !json.path("record").isObject() || !json.path("status").isTextual()) {
      throw new ResultTypeException("the record is no result: it lacks id, status or record", "$", "", null, null);
    }
    JsonNode times = json.path("durations");
    return new PipelineResult<>(
        text(json, "id"),
        text(json, "pipeline"),
        text(json, "tenant"),
        Status.of(text(json, "status")).orElse(Status.FAILED),
        json.get("result"),
        record(json.path("record")),
        text(json, "node"),
        json.path("attempt").asInt(),
        text(json, "release"),
        text(json, "build_id"),
        text(json, "model"),
        json.path("model_version").asInt(),
        new PipelineResult.Durations(
            times.path("queue_s").asDouble(), times.path("load_s").asDouble(), times.path("run_s").asDouble()),
        text(json, "run"),
        json.path("replay_of").isObject() ? Optional.of(record(json.path("replay_of"))) : Optional.empty(),
        trace(headers),
        json);
  }

  /**
   * The result with its value as a type.
   *
   * @throws RequestException its status is not ok
   * @throws ResultTypeException the value does not fit the type
   */
  <T> PipelineResult<T> typed(PipelineResult<JsonNode> result, JavaType type) {
    if (!result.json().path("status").asText().equals(Status.OK.spelled())) {
      throw problem(result);
    }
    JsonNode value = result.value();
    try {
      T typed = value == null ? null : mapper.treeToValue(value, type);
      return result.withValue(typed);
    } catch (JsonProcessingException error) {
      String path = error instanceof JsonMappingException mapping ? JsonPaths.of(mapping) : "$";
      String message = "the result of %s is no %s: %s".formatted(result.pipeline(), type.toCanonical(), error.getOriginalMessage());
      throw new ResultTypeException(message, path, result.id(), result, error);
    }
  }

  private static RequestException problem(PipelineResult<JsonNode> result) {
    JsonNode error = result.json().path("error");
    String status = result.json().path("status").asText();
    RequestException.Problem problem =
        new RequestException.Problem(
            error.path("code").asText(status), error.path("message").asText(), text(error, "path"), text(error, "mend"), result.id());
    return RequestException.of(status, problem, result);
  }

  private static Optional<TraceContext> trace(Map<String, String> headers) {
    String traceparent = headers.get("traceparent");
    try {
      return traceparent == null
          ? Optional.empty()
          : Optional.of(new TraceContext(traceparent, headers.getOrDefault("tracestate", "")));
    } catch (IllegalArgumentException notOne) {
      return Optional.empty(); // somebody else's header must not keep a result from its caller
    }
  }

  private static RecordRef record(JsonNode json) {
    return new RecordRef(text(json, "topic"), json.path("partition").asInt(-1), json.path("offset").asLong(-1));
  }

  private static String text(JsonNode json, String name) {
    return json.path(name).asText("");
  }
}
