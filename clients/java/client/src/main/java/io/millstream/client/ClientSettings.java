package io.millstream.client;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.json.JsonWriteFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.time.Duration;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.Executor;
import java.util.function.Supplier;

/**
 * How a client works: read from {@link Properties}, and objects that properties cannot hold. Immutable.
 *
 * <table>
 *   <caption>Properties; all others are Kafka's own and go to its producer, consumer and admin client</caption>
 *   <tr><th>property</th><th>meaning</th><th>default</th></tr>
 *   <tr><td>{@code bootstrap.servers}</td><td>the cluster, HOST:PORT,...</td><td>none: must be given</td></tr>
 *   <tr><td>{@code millstream.client}</td><td>name of the application: its Kafka client.id, and its reply topic</td>
 *       <td>{@code java}</td></tr>
 *   <tr><td>{@code millstream.replies}</td><td>{@code own}: the topic {@code ml.reply.<client>}, made where it is missing;
 *       {@code output}: the shared {@code ml.pipeline.output}; {@code none}: no results are read; else the name of a topic that is
 *       there</td><td>{@code own}</td></tr>
 *   <tr><td>{@code millstream.tenant}</td><td>tenant of requests that name none</td><td>{@code default}</td></tr>
 *   <tr><td>{@code millstream.spelling}</td><td>{@code plain} or {@code cloudevents}</td><td>{@code plain}</td></tr>
 *   <tr><td>{@code millstream.deadline.ms}</td><td>how long callers wait who set neither deadline nor timeout</td>
 *       <td>60000</td></tr>
 *   <tr><td>{@code millstream.max.waiting}</td><td>how many requests may wait for their results at a time</td><td>10000</td></tr>
 *   <tr><td>{@code millstream.input.topic}</td><td>where requests go</td><td>{@code ml.pipeline.input}</td></tr>
 * </table>
 */
public final class ClientSettings {
  /** Property: name of the application. */
  public static final String CLIENT = "millstream.client";

  /** Property: where results are read. */
  public static final String REPLIES = "millstream.replies";

  /** Property: tenant of requests that name none. */
  public static final String TENANT = "millstream.tenant";

  /** Property: how requests are spelled. */
  public static final String SPELLING = "millstream.spelling";

  /** Property: how long callers wait who say nothing about it. */
  public static final String DEADLINE_MS = "millstream.deadline.ms";

  /** Property: how many requests may wait for their results. */
  public static final String MAX_WAITING = "millstream.max.waiting";

  /** Property: where requests go. */
  public static final String INPUT_TOPIC = "millstream.input.topic";

  /** Where results go that name no reply topic. */
  public static final String OUTPUT = "ml.pipeline.output";

  /** How much longer than a request's timeout its caller waits, unless told: time for the answer {@code expired} to arrive. */
  public static final Duration GRACE = Duration.ofSeconds(5);

  private static final String BOOTSTRAP = "bootstrap.servers";
  private static final Map<String, String> DEFAULTS =
      Map.of(
          CLIENT, "java",
          REPLIES, "own",
          TENANT, "default",
          SPELLING, "plain",
          DEADLINE_MS, "60000",
          MAX_WAITING, "10000",
          INPUT_TOPIC, "ml.pipeline.input");

  private final Map<String, String> ours;
  private final Map<String, String> kafka;
  private Duration deadline;
  private int maxWaiting;
  private ObjectMapper mapper = defaultMapper();
  private Executor executor;
  private ResultListener<JsonNode> listener;
  private Supplier<Optional<TraceContext>> trace = Optional::empty;

  private ClientSettings(Map<String, String> ours, Map<String, String> kafka) {
    this.ours = ours;
    this.kafka = kafka;
    deadline = Duration.ofMillis(number(DEADLINE_MS, Integer.MAX_VALUE));
    maxWaiting = (int) number(MAX_WAITING, 10_000_000);
    replyTopic();
    spelling();
  }

  private ClientSettings(ClientSettings other) {
    ours = other.ours;
    kafka = other.kafka;
    deadline = other.deadline;
    maxWaiting = other.maxWaiting;
    mapper = other.mapper;
    executor = other.executor;
    listener = other.listener;
    trace = other.trace;
  }

  /**
   * Reads settings.
   *
   * @param properties see the table of this class
   * @return the settings
   * @throws IllegalArgumentException a property is missing, unknown or cannot be used; the message names it
   */
  public static ClientSettings of(Properties properties) {
    Map<String, String> ours = new TreeMap<>(DEFAULTS);
    Map<String, String> kafka = new TreeMap<>();
    for (String name : properties.stringPropertyNames()) {
      String value = properties.getProperty(name).strip();
      if (!name.startsWith("millstream.")) {
        kafka.put(name, value);
      } else if (ours.put(name, value) == null) {
        throw new IllegalArgumentException("there is no property " + name + "; there are " + new TreeMap<>(DEFAULTS).keySet());
      }
    }
    if (kafka.getOrDefault(BOOTSTRAP, "").isEmpty()) {
      throw new IllegalArgumentException(BOOTSTRAP + " is missing: the cluster's HOST:PORT");
    }
    KafkaProperties.check(kafka);
    return new ClientSettings(ours, kafka);
  }

  /**
   * The settings of a laptop: the cluster and a name, nothing else.
   *
   * @param bootstrapServers HOST:PORT,...
   * @param client name of the application
   * @return the settings
   */
  public static ClientSettings of(String bootstrapServers, String client) {
    Properties properties = new Properties();
    properties.setProperty(BOOTSTRAP, bootstrapServers);
    properties.setProperty(CLIENT, client);
    return of(properties);
  }

  /**
   * How long callers wait who set neither a deadline nor a timeout.
   *
   * @param deadline above zero
   * @return other settings
   */
  public ClientSettings deadline(Duration deadline) {
    if (deadline.isNegative() || deadline.isZero()) {
      throw new IllegalArgumentException("a deadline is longer than " + deadline);
    }
    ClientSettings copy = new ClientSettings(this);
    copy.deadline = deadline;
    return copy;
  }

  /**
   * How many requests may wait for their results at a time: the bound of what a client holds in memory.
   *
   * @param maxWaiting at least 1
   * @return other settings
   */
  public ClientSettings maxWaiting(int maxWaiting) {
    if (maxWaiting < 1) {
      throw new IllegalArgumentException("at least 1 request may wait, not " + maxWaiting);
    }
    ClientSettings copy = new ClientSettings(this);
    copy.maxWaiting = maxWaiting;
    return copy;
  }

  /**
   * Writes parameters and reads values. The default leaves out members that a record does not have, and writes NaN and infinity
   * as such, so that the platform refuses them and names their place.
   *
   * @param mapper the application's
   * @return other settings
   */
  public ClientSettings mapper(ObjectMapper mapper) {
    ClientSettings copy = new ClientSettings(this);
    copy.mapper = Objects.requireNonNull(mapper, "mapper");
    return copy;
  }

  /**
   * Runs callbacks of futures and listeners. It is not shut down with the client.
   *
   * @param executor the application's; by default the client has a few daemon threads of its own
   * @return other settings
   */
  public ClientSettings executor(Executor executor) {
    ClientSettings copy = new ClientSettings(this);
    copy.executor = Objects.requireNonNull(executor, "executor");
    return copy;
  }

  /**
   * Is told every result on the reply topic that nobody waits for: of requests that were {@linkplain Millstream#send sent}, of
   * callers who waited no longer, of other processes with the same reply topic; on the shared output topic, of everybody. Results
   * that came while no client ran are not told. While it is slow the client reads no further.
   *
   * @param listener told each result once
   * @return other settings
   */
  public ClientSettings listener(ResultListener<JsonNode> listener) {
    ClientSettings copy = new ClientSettings(this);
    copy.listener = Objects.requireNonNull(listener, "listener");
    return copy;
  }

  /**
   * Is asked for the trace context of requests that bring none, on the thread of the caller.
   *
   * @param trace such as what a tracing library knows of the current thread
   * @return other settings
   */
  public ClientSettings trace(Supplier<Optional<TraceContext>> trace) {
    ClientSettings copy = new ClientSettings(this);
    copy.trace = Objects.requireNonNull(trace, "trace");
    return copy;
  }

  // --- what the client reads -------------------------------------------------------------------------------------------------

  static ObjectMapper defaultMapper() {
    return JsonMapper.builder()
        .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
        // As text, NaN would be a wrong value that some pipelines take; bare, it is refused with its path.
        .disable(JsonWriteFeature.WRITE_NAN_AS_STRINGS)
        .disable(JsonGenerator.Feature.AUTO_CLOSE_TARGET)
        .build();
  }

  String client() {
    return ours.get(CLIENT);
  }

  String tenant() {
    return ours.get(TENANT);
  }

  String inputTopic() {
    return ours.get(INPUT_TOPIC);
  }

  Spelling spelling() {
    return switch (ours.get(SPELLING)) {
      case "plain" -> Spelling.PLAIN;
      case "cloudevents" -> Spelling.CLOUD_EVENTS;
      default -> throw new IllegalArgumentException(SPELLING + " is plain or cloudevents, not " + ours.get(SPELLING));
    };
  }

  /** The topic on which results are read; empty for none. */
  Optional<String> replyTopic() {
    return switch (ours.get(REPLIES)) {
      case "none" -> Optional.empty();
      case "own" -> Optional.of(topicName("ml.reply." + client()));
      case "output" -> Optional.of(OUTPUT);
      default -> Optional.of(topicName(ours.get(REPLIES)));
    };
  }

  /** Whether the reply topic is this client's to make where it is missing. */
  boolean makesReplyTopic() {
    return ours.get(REPLIES).equals("own");
  }

  /** What requests say in {@code reply_to}; empty for the shared output topic. */
  String replyTo() {
    return replyTopic().filter(topic -> !topic.equals(OUTPUT)).orElse("");
  }

  Map<String, String> kafka() {
    return kafka;
  }

  Duration deadline() {
    return deadline;
  }

  /** How long a request that nobody waits for is tried to be sent: as long as the producer tries with what it has. */
  Duration sendPatience() {
    return Duration.ofMillis(Long.parseLong(kafka.getOrDefault("delivery.timeout.ms", KafkaProperties.DELIVERY_TIMEOUT_MS)));
  }

  int maxWaiting() {
    return maxWaiting;
  }

  ObjectMapper mapper() {
    return mapper;
  }

  Optional<Executor> executor() {
    return Optional.ofNullable(executor);
  }

  Optional<ResultListener<JsonNode>> listener() {
    return Optional.ofNullable(listener);
  }

  Supplier<Optional<TraceContext>> trace() {
    return trace;
  }

  private long number(String name, long most) {
    try {
      long value = Long.parseLong(ours.get(name));
      if (value >= 1 && value <= most) {
        return value;
      }
    } catch (NumberFormatException notOne) {
      // said below, with the text
    }
    throw new IllegalArgumentException("%s is a whole number of 1 to %,d, not %s".formatted(name, most, ours.get(name)));
  }

  private static String topicName(String name) {
    if (!name.matches("[A-Za-z0-9._-]{1,249}")) {
      throw new IllegalArgumentException("'" + name + "' is no name of a topic: letters, digits, '.', '_' and '-', at most 249");
    }
    return name;
  }
}
