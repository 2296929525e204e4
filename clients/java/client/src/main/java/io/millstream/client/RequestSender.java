package io.millstream.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;

/**
 * Hands records to Kafka's producer (acks=all, idempotent) and says how each one ended. From any thread, and never holding it up:
 * what the producer cannot take now, since the cluster is not known or its memory is full, is kept here and tried again, a bounded
 * number of bytes.
 */
final class RequestSender {
  /** As much again as the producer's own memory. */
  private static final long MOST_UNSENT_BYTES = 32L * 1024 * 1024;

  private static final long FIRST_PAUSE_MS = 5;
  private static final long LONGEST_PAUSE_MS = 200;
  private static final long LOOK_MS = 20;

  private final KafkaProducer<byte[], byte[]> producer;
  private final String topic;
  private final ScheduledExecutorService timers;

  private final Set<Unsent> unsent = new LinkedHashSet<>();
  private long unsentBytes;
  private long pauseMs = FIRST_PAUSE_MS;
  private Future<?> next;
  private boolean closed;

  /**
   * Starts the producer; it connects by itself, now and whenever it must.
   *
   * @param timers runs the later tries
   */
  RequestSender(ClientSettings settings, ScheduledExecutorService timers) {
    producer = new KafkaProducer<>(KafkaProperties.producer(settings));
    topic = settings.inputTopic();
    this.timers = timers;
  }

  /** Who is told how a request ended: once, on any thread, and briefly. */
  interface Outcome {
    /** Whether it still is to be sent. */
    boolean wanted();

    /** The broker has it. */
    void sent(RecordRef where);

    /** The broker has not, or may not have it. */
    void failed(MillstreamException error);
  }

  /** One request on its way to the producer. */
  private static final class Unsent {
    final RequestWriter.Written request;
    final BooleanSupplier mayGo;
    final Outcome outcome;
    private final long until;

    Unsent(RequestWriter.Written request, BooleanSupplier mayGo, Duration patience, Outcome outcome) {
      this.request = request;
      this.mayGo = mayGo;
      this.outcome = outcome;
      until = System.nanoTime() + patience.toNanos();
    }

    long bytes() {
      return request.record().value().length;
    }

    boolean late() {
      return System.nanoTime() - until > 0;
    }
  }

  /**
   * Sends a request, now or as soon as it can be.
   *
   * @param mayGo while it says no the request stays here; after a yes it says yes for ever, and {@link #tryAgain} tells of it
   * @param patience how long to try
   */
  void send(RequestWriter.Written request, BooleanSupplier mayGo, Duration patience, Outcome outcome) {
    Unsent one = new Unsent(request, mayGo, patience, outcome);
    // Who comes while others cannot be sent stands behind them.
    boolean now = noneWaits() && mayGo.getAsBoolean();
    if (!now || !handOver(one)) {
      keep(one);
    }
  }

  /** Something changed that may let requests go. */
  synchronized void tryAgain() {
    pauseMs = FIRST_PAUSE_MS;
    tryAfter(0);
  }

  /**
   * Learns where the input topic lies, so that the first request need not wait for it.
   *
   * @param patience how long to try
   * @throws TimeoutException the cluster did not say, or has no such topic
   */
  void warmUp(Duration patience) throws InterruptedException {
    long until = System.nanoTime() + patience.toNanos();
    while (true) {
      try {
        producer.partitionsFor(topic);
        return;
      } catch (TimeoutException notYet) {
        if (System.nanoTime() - until > 0) {
          throw new TimeoutException("the cluster does not answer, or has no topic " + topic, notYet);
        }
        Thread.sleep(LOOK_MS);
      }
    }
  }

  /** Sends what the producer has, that long at most, and ends it; what it has not was not sent. */
  void close(Duration patience) {
    List<Unsent> left;
    synchronized (this) {
      closed = true;
      left = new ArrayList<>(unsent);
      left.forEach(this::take);
    }
    left.forEach(one -> one.outcome.failed(closed(one)));
    producer.close(patience);
  }

  // --- what cannot be sent now -----------------------------------------------------------------------------------------------

  private synchronized boolean noneWaits() {
    return unsent.isEmpty();
  }

  /** Keeps a request for a later try, or tells why not. */
  private void keep(Unsent one) {
    MillstreamException refusal = null;
    synchronized (this) {
      if (closed) {
        refusal = closed(one);
      } else if (unsentBytes + one.bytes() > MOST_UNSENT_BYTES) {
        refusal = notSent(one.request, "%,d bytes of requests wait to be sent, no more may".formatted(unsentBytes), null);
      } else {
        unsent.add(one);
        unsentBytes += one.bytes();
        if (next == null) {
          tryAfter(pauseMs);
        }
      }
    }
    if (refusal != null) {
      one.outcome.failed(refusal);
    }
  }

  /** Takes a request out; false where somebody else did. */
  private synchronized boolean take(Unsent one) {
    boolean taken = unsent.remove(one);
    unsentBytes -= taken ? one.bytes() : 0;
    return taken;
  }

  /** Called with the lock. */
  private void tryAfter(long delayMs) {
    if (next != null) {
      next.cancel(false);
    }
    try {
      next = timers.schedule(this::sendKept, delayMs, TimeUnit.MILLISECONDS);
    } catch (RejectedExecutionException closing) {
      next = null; // `close` ends what is kept
    }
  }

  /** One round, on the timers' thread: whatever may go is handed over, until the producer takes no more. */
  private void sendKept() {
    boolean going = true;
    for (Unsent one : kept()) {
      if (!one.outcome.wanted()) {
        take(one);
      } else if (one.late() && take(one)) {
        one.outcome.failed(notSent(one.request, "the cluster did not take it in the time given", null));
      } else if (going && one.mayGo.getAsBoolean() && take(one)) {
        going = handOver(one);
        if (!going) {
          keep(one);
        }
      }
    }
    synchronized (this) {
      pauseMs = going ? FIRST_PAUSE_MS : Math.min(LONGEST_PAUSE_MS, 2 * pauseMs);
      next = null;
      if (!unsent.isEmpty()) {
        tryAfter(going ? LONGEST_PAUSE_MS : pauseMs);
      }
    }
  }

  private synchronized List<Unsent> kept() {
    return new ArrayList<>(unsent);
  }

  private static ClientClosedException closed(Unsent one) {
    return new ClientClosedException("the client was closed, the request was not sent", one.request.id());
  }

  // --- the producer ----------------------------------------------------------------------------------------------------------

  /** Gives a request to the producer; false where it cannot take it now, and nobody was told. */
  private boolean handOver(Unsent one) {
    Handing handing = new Handing(one);
    try {
      producer.send(one.request.record(), handing::ended);
    } catch (KafkaException | IllegalStateException error) {
      one.outcome.failed(refusal(one.request, error, false));
    }
    return handing.returned();
  }

  /** Tells what fails inside of `send`, and so never was in the producer's hands, from what fails later. */
  private final class Handing {
    private final Unsent one;
    private final Thread thread = Thread.currentThread();
    private boolean inside = true;
    private boolean taken = true;

    Handing(Unsent one) {
      this.one = one;
    }

    void ended(RecordMetadata where, Exception error) {
      boolean never = Thread.currentThread() == thread && inside;
      if (error == null) {
        one.outcome.sent(new RecordRef(where.topic(), where.partition(), where.offset()));
      } else if (never && error instanceof TimeoutException) {
        taken = false; // no metadata, or no memory: another time
      } else {
        one.outcome.failed(refusal(one.request, error, !never));
      }
    }

    boolean returned() {
      inside = false;
      return taken;
    }
  }

  private MillstreamException refusal(RequestWriter.Written request, Exception error, boolean kept) {
    if (error instanceof RecordTooLargeException) {
      String mend = "send less, or put the data in storage and send where";
      return new InvalidRequestException(new RequestException.Problem("record_too_large", words(error), "$", mend, request.id()), error);
    }
    boolean refused = error instanceof AuthorizationException || error instanceof InvalidTopicException;
    if (!kept || refused || !(error instanceof ApiException)) {
      return notSent(request, words(error), error);
    }
    String message = "the broker did not acknowledge the request on %s, it may be there or not: %s".formatted(topic, words(error));
    return new SendException(message, mend(), request.id(), true, error);
  }

  private SendException notSent(RequestWriter.Written request, String why, Exception cause) {
    return new SendException("the request was not sent to %s: %s".formatted(topic, why), mend(), request.id(), false, cause);
  }

  private String mend() {
    return "see that the cluster answers and has the topic " + topic;
  }

  private static String words(Exception error) {
    return error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
  }
}
