package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Map;
import java.util.Optional;

/**
 * The one result of a request that ended with status {@code ok}, or, inside a {@link RequestException}, of one that did not.
 *
 * @param <T> the type of the value
 * @param id the request's id
 * @param pipeline the pipeline that was asked for
 * @param tenant whose model answered
 * @param status how the request ended
 * @param value what the pipeline returned; null where the status is not ok, or where it returned null
 * @param record the input record that this result answers, also after retries
 * @param node the node that answered
 * @param attempt how many tries it took, counted from 1
 * @param release package==version that answered, or empty
 * @param buildId the build of that release, or empty
 * @param model tenant.model that answered, or empty
 * @param modelVersion the version of that model, or 0
 * @param durations where the time went
 * @param run the run's id where the work was long, or empty
 * @param replayOf the record that this one is a replay of
 * @param trace the trace context that was sent, as it was echoed
 * @param json the result as it stands on the topic
 */
public record PipelineResult<T>(
    String id,
    String pipeline,
    String tenant,
    Status status,
    T value,
    RecordRef record,
    String node,
    int attempt,
    String release,
    String buildId,
    String model,
    int modelVersion,
    Durations durations,
    String run,
    Optional<RecordRef> replayOf,
    Optional<TraceContext> trace,
    JsonNode json) {

  /**
   * Where the time of a request went, in seconds.
   *
   * @param queueS from the append to the dispatch
   * @param loadS loading the model; 0 when it was loaded
   * @param runS pipeline code, for the batch
   */
  public record Durations(double queueS, double loadS, double runS) {}

  /**
   * Reads a result that came to the application by other ways than this client, such as a listener of its own on a reply topic.
   *
   * @param <T> the type of the value
   * @param value the value of the record
   * @param headers the headers of the record as text; only those of tracing are read
   * @param type the type of the value
   * @return the result, whose status is ok
   * @throws RequestException the request ended otherwise
   * @throws ResultTypeException the value does not fit the type, or this is no result
   */
  public static <T> PipelineResult<T> parse(byte[] value, Map<String, String> headers, Class<T> type) {
    ResultReader reader = new ResultReader(ClientSettings.defaultMapper());
    return reader.typed(reader.read(value, headers), reader.typeOf(type));
  }

  <U> PipelineResult<U> withValue(U other) {
    return new PipelineResult<>(
        id, pipeline, tenant, status, other, record, node, attempt, release, buildId, model, modelVersion, durations, run, replayOf, trace, json);
  }
}
