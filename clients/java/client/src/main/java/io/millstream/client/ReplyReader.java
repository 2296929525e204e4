package io.millstream.client;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.errors.InterruptException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;

/**
 * The one thread that reads results: every partition of one topic, from the end that it had when the client started, only what is
 * committed. It belongs to no group, so nothing is rebalanced and every process reads all.
 *
 * <p>Whatever happens to the cluster, it goes on by itself: after an error it starts anew with the next record that it has not
 * read. A reply topic of the client's own is made where it is missing, also when somebody removed it.
 */
final class ReplyReader implements AutoCloseable {
  private static final Duration POLL = Duration.ofMillis(500);
  private static final Duration ANSWER = Duration.ofSeconds(10);
  private static final Duration LOOK_FOR_PARTITIONS = Duration.ofSeconds(1);
  private static final long FIRST_PAUSE_MS = 100;
  private static final long LONGEST_PAUSE_MS = 5_000;
  private static final long CLOSE_MS = 10_000;

  /**
   * Of a reply topic that this client makes: one partition and the broker's own replication do for the results of one application,
   * which nobody reads after an hour, and which may be as large as those on the output topic, headers included.
   */
  private static final Map<String, String> TOPIC =
      Map.of(
          TopicConfig.RETENTION_MS_CONFIG, "3600000",
          TopicConfig.CLEANUP_POLICY_CONFIG, TopicConfig.CLEANUP_POLICY_DELETE,
          TopicConfig.MAX_MESSAGE_BYTES_CONFIG, String.valueOf(8 * 1024 * 1024 + 64 * 1024));

  private final ClientSettings settings;
  private final String topic;
  private final RequestSender sender;
  private final ResultReader results;
  private final Taker taker;
  private final CompletableFuture<Void> ready = new CompletableFuture<>();
  private final Thread thread = new Thread(this::run, "millstream-replies");

  /** The next offset to read of each partition; outlives a consumer that failed. Read by {@link #thread} alone. */
  private final Map<TopicPartition, Long> next = new HashMap<>();

  private boolean positioned;
  private long partitionsSeenAt;
  private volatile KafkaConsumer<byte[], byte[]> consumer;
  private volatile boolean closed;
  private volatile String trouble = "the reply topic was not read yet";

  /**
   * Starts reading.
   *
   * @param taker told every result, on the reading thread
   */
  ReplyReader(ClientSettings settings, String topic, RequestSender sender, ResultReader results, Taker taker) {
    this.settings = settings;
    this.topic = topic;
    this.sender = sender;
    this.results = results;
    this.taker = taker;
    thread.setDaemon(true);
    thread.start();
  }

  /** Who is told of results. */
  interface Taker {
    /** Takes one, at once. */
    void take(Call.Reply reply);

    /** Waits until more can be taken. */
    void awaitRoom() throws InterruptedException;
  }

  /** Completed when no result that is written from now on can be missed. */
  CompletableFuture<Void> ready() {
    return ready;
  }

  /** What keeps results from being read now; empty where nothing does. */
  String trouble() {
    return trouble;
  }

  @Override
  public void close() {
    closed = true;
    KafkaConsumer<byte[], byte[]> reading = consumer;
    if (reading != null) {
      reading.wakeup();
    }
    if (Thread.currentThread() == thread) {
      return;
    }
    try {
      // An interrupt ends what a wake-up does not: a pause, a slow listener.
      thread.join(CLOSE_MS / 10);
      thread.interrupt();
      thread.join(CLOSE_MS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private void run() {
    long pauseMs = FIRST_PAUSE_MS;
    while (!closed) {
      try (KafkaConsumer<byte[], byte[]> reading = new KafkaConsumer<>(KafkaProperties.consumer(settings))) {
        consumer = reading;
        begin(reading);
        pauseMs = FIRST_PAUSE_MS;
        while (!closed) {
          readOn(reading);
        }
      } catch (WakeupException | InterruptException | InterruptedException ending) {
        Thread.interrupted(); // the loop's own condition says whether this was meant
      } catch (KafkaException error) {
        tell(error);
        pause(pauseMs);
        pauseMs = Math.min(LONGEST_PAUSE_MS, 2 * pauseMs);
      }
    }
    ready.completeExceptionally(new ClientClosedException("the client was closed before it could read results", ""));
  }

  /** Finds the partitions and the place in each. The first time that is the end, before any request is sent. */
  private void begin(KafkaConsumer<byte[], byte[]> reading) throws InterruptedException {
    List<TopicPartition> partitions = partitions(reading);
    if (partitions.isEmpty()) {
      make();
      partitions = partitions(reading);
      if (partitions.isEmpty()) {
        throw new KafkaException("topic " + topic + " is there and not seen yet");
      }
    }
    reading.assign(partitions);
    if (positioned) {
      partitions.forEach(partition -> seek(reading, partition));
    } else {
      reading.seekToEnd(partitions);
      partitions.forEach(partition -> next.put(partition, reading.position(partition, ANSWER)));
      sender.warmUp(ANSWER);
      positioned = true;
    }
    trouble = "";
    ready.complete(null);
  }

  private void seek(KafkaConsumer<byte[], byte[]> reading, TopicPartition partition) {
    Long offset = next.get(partition);
    if (offset == null) {
      // It came after the client: all that it holds may be for us.
      reading.seekToBeginning(List.of(partition));
    } else {
      reading.seek(partition, offset);
    }
  }

  private void readOn(KafkaConsumer<byte[], byte[]> reading) throws InterruptedException {
    taker.awaitRoom();
    for (ConsumerRecord<byte[], byte[]> record : reading.poll(POLL)) {
      take(record);
      next.put(new TopicPartition(record.topic(), record.partition()), record.offset() + 1);
    }
    if (System.nanoTime() - partitionsSeenAt > LOOK_FOR_PARTITIONS.toNanos()) {
      List<TopicPartition> partitions = partitions(reading);
      if (partitions.isEmpty()) {
        // Removed, or a broker that is just starting does not know it yet: `begin` finds out.
        throw new KafkaException("topic " + topic + " is not there");
      }
      if (partitions.size() > reading.assignment().size()) {
        List<TopicPartition> added = new ArrayList<>(partitions);
        added.removeAll(reading.assignment());
        reading.assign(partitions);
        reading.seekToBeginning(added);
      }
    }
  }

  private void take(ConsumerRecord<byte[], byte[]> record) {
    Optional<ResultReader.Head> head = results.head(record.value());
    if (head.isEmpty()) {
      Callbacks.LOG.debug("{}-{} holds no result at offset {}", topic, record.partition(), record.offset());
      return;
    }
    Map<String, String> headers = new HashMap<>();
    for (Header header : record.headers()) {
      if (header.value() != null) {
        headers.put(header.key(), new String(header.value(), StandardCharsets.UTF_8));
      }
    }
    taker.take(new Call.Reply(head.get(), record.value(), headers));
  }

  // --- the topic -------------------------------------------------------------------------------------------------------------

  /** As the consumer knows them, which asks the cluster every {@code metadata.max.age.ms}; asked for at once where it knows none. */
  private List<TopicPartition> partitions(KafkaConsumer<byte[], byte[]> reading) {
    partitionsSeenAt = System.nanoTime();
    List<PartitionInfo> found = reading.partitionsFor(topic, ANSWER);
    return found == null ? List.of() : found.stream().map(one -> new TopicPartition(topic, one.partition())).toList();
  }

  private void make() {
    if (!settings.makesReplyTopic()) {
      throw new KafkaException("there is no topic " + topic + ": make it, or let the client have its own (" + ClientSettings.REPLIES + "=own)");
    }
    NewTopic wanted = new NewTopic(topic, Optional.of(1), Optional.empty()).configs(TOPIC);
    try (Admin admin = Admin.create(KafkaProperties.admin(settings))) {
      admin.createTopics(List.of(wanted)).all().get();
      next.clear(); // of the topic that was there before
      Callbacks.LOG.info("made the reply topic {}", topic);
    } catch (ExecutionException error) {
      if (!(error.getCause() instanceof TopicExistsException)) {
        throw new KafkaException("the reply topic " + topic + " cannot be made: " + error.getCause().getMessage(), error.getCause());
      }
    } catch (InterruptedException interrupted) {
      throw new InterruptException(interrupted);
    }
  }

  // --- trouble ---------------------------------------------------------------------------------------------------------------

  /** Says each kind of trouble once, not at every try. */
  private void tell(KafkaException error) {
    String words = "results cannot be read from " + topic + ": " + error.getMessage();
    if (!words.equals(trouble)) {
      Callbacks.LOG.warn("{}; trying on", words);
      Callbacks.LOG.debug("what kept results from being read", error);
    }
    trouble = words;
  }

  private void pause(long pauseMs) {
    try {
      Thread.sleep(pauseMs);
    } catch (InterruptedException interrupted) {
      // Only `close` interrupts this thread, and the loop sees that it is closed.
    }
  }
}
