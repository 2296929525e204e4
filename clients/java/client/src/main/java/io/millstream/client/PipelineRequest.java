package io.millstream.client;

import java.time.Duration;
import java.util.Objects;
import java.util.Optional;

/**
 * What is asked of a pipeline. Immutable: every method that sets something returns another request, so one can be kept as a
 * template. What is not set is left to the client's settings and the platform's defaults.
 *
 * <pre>{@code
 * PipelineRequest.of("detect").params(new Readings(21.5)).tenant("acme").timeout(Duration.ofSeconds(2))
 * }</pre>
 */
public final class PipelineRequest {
  private final String pipeline;
  private Object params;
  private String tenant;
  private String id;
  private String key;
  private Duration timeout;
  private Duration deadline;
  private String idempotencyKey = "";
  private TraceContext trace;

  private PipelineRequest(String pipeline) {
    this.pipeline = Objects.requireNonNull(pipeline, "pipeline");
  }

  private PipelineRequest(PipelineRequest other) {
    this(other.pipeline);
    params = other.params;
    tenant = other.tenant;
    id = other.id;
    key = other.key;
    timeout = other.timeout;
    deadline = other.deadline;
    idempotencyKey = other.idempotencyKey;
    trace = other.trace;
  }

  /**
   * A request without parameters.
   *
   * @param pipeline the pipeline's name
   * @return the request
   */
  public static PipelineRequest of(String pipeline) {
    return new PipelineRequest(pipeline);
  }

  /**
   * A request with parameters.
   *
   * @param pipeline the pipeline's name
   * @param params see {@link #params(Object)}
   * @return the request
   */
  public static PipelineRequest of(String pipeline, Object params) {
    return of(pipeline).params(params);
  }

  /**
   * The parameters: what the JSON library writes as an object whose members are the pipeline's parameters, such as a record, a
   * map or a JsonNode. It is read when the request is handed to the client.
   *
   * @param params the parameters; null for none
   * @return another request
   */
  public PipelineRequest params(Object params) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.params = params;
    return copy;
  }

  /**
   * Whose model is meant; also the record's key, unless {@link #key} is set.
   *
   * @param tenant letters, digits, - and _, 1 to 64
   * @return another request
   */
  public PipelineRequest tenant(String tenant) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.tenant = Objects.requireNonNull(tenant, "tenant");
    return copy;
  }

  /**
   * The request's id. By default every call makes a new one, an ULID. The same id sent twice is two requests.
   *
   * @param id 1 to 200 characters
   * @return another request
   */
  public PipelineRequest id(String id) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.id = Objects.requireNonNull(id, "id");
    return copy;
  }

  /**
   * The record's key: requests with one key lie on one partition. It gives locality, never order.
   *
   * @param key the key; by default the tenant
   * @return another request
   */
  public PipelineRequest key(String key) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.key = Objects.requireNonNull(key, "key");
    return copy;
  }

  /**
   * After this time the platform gives the request up and answers {@code expired}. It counts from the moment the record is
   * appended, by the broker's clock.
   *
   * @param timeout above zero
   * @return another request
   */
  public PipelineRequest timeout(Duration timeout) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.timeout = Objects.requireNonNull(timeout, "timeout");
    return copy;
  }

  /**
   * After this time the caller waits no more, and the future ends with {@link DeadlineException}. It counts from the call. By
   * default it is {@link ClientSettings#deadline}, or the {@code timeout} and {@link ClientSettings#GRACE} where a timeout is set,
   * so that the platform's answer comes first.
   *
   * @param deadline above zero
   * @return another request
   */
  public PipelineRequest deadline(Duration deadline) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.deadline = Objects.requireNonNull(deadline, "deadline");
    return copy;
  }

  /**
   * Makes long work (a training) one run, however often it is asked for with this key and the same parameters.
   *
   * @param idempotencyKey at most 200 characters; by default the id
   * @return another request
   */
  public PipelineRequest idempotencyKey(String idempotencyKey) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.idempotencyKey = Objects.requireNonNull(idempotencyKey, "idempotencyKey");
    return copy;
  }

  /**
   * Trace context that travels with the request. By default {@link ClientSettings#trace} is asked.
   *
   * @param trace the caller's
   * @return another request
   */
  public PipelineRequest trace(TraceContext trace) {
    PipelineRequest copy = new PipelineRequest(this);
    copy.trace = Objects.requireNonNull(trace, "trace");
    return copy;
  }

  String pipeline() {
    return pipeline;
  }

  Object params() {
    return params;
  }

  Optional<String> tenant() {
    return Optional.ofNullable(tenant);
  }

  Optional<String> id() {
    return Optional.ofNullable(id);
  }

  Optional<String> key() {
    return Optional.ofNullable(key);
  }

  Optional<Duration> timeout() {
    return Optional.ofNullable(timeout);
  }

  Optional<Duration> deadline() {
    return Optional.ofNullable(deadline);
  }

  String idempotencyKey() {
    return idempotencyKey;
  }

  Optional<TraceContext> trace() {
    return Optional.ofNullable(trace);
  }
}
