package io.millstream.client;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.JavaType;
import java.time.Duration;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.function.Function;
import org.apache.kafka.common.KafkaException;

/**
 * Calls pipelines over Kafka: one producer, one reading thread, a bounded number of requests that wait. Make one for a process and
 * close it with the process; it is safe for use by all threads.
 *
 * <pre>{@code
 * record Reading(String sensor, double value) {}
 * record Params(Reading reading) {}
 * record Verdict(double score, boolean unusual) {}
 *
 * try (Millstream millstream = new MillstreamClient(ClientSettings.of("localhost:9092", "billing"))) {
 *   Verdict verdict = millstream
 *       .call(PipelineRequest.of("sensors_judge", new Params(new Reading("door", 27.5))).tenant("acme"), Verdict.class)
 *       .join()
 *       .value();
 * }
 * }</pre>
 *
 * <p>A cluster that cannot be reached is no error of the constructor: requests are sent once it is there, or end with their
 * deadline, which says what was in the way.
 */
public final class MillstreamClient implements Millstream {
  /** What was handed to Kafka is sent within this time of a close, or given up. */
  private static final Duration FLUSH = Duration.ofSeconds(10);

  private final ClientSettings settings;
  private final RequestWriter writer;
  private final ResultReader results;
  private final Callbacks callbacks;
  private final ScheduledExecutorService timers;
  private final WaitingCalls waiting;
  private final RequestSender sender;
  private final Optional<ReplyReader> reader;
  private final Optional<LateResults> late;
  private final Replies replies = new Replies();
  private volatile boolean closed;

  /**
   * Starts a client.
   *
   * @param properties see {@link ClientSettings}
   * @throws IllegalArgumentException a property cannot be used; the message names it
   */
  public MillstreamClient(Properties properties) {
    this(ClientSettings.of(properties));
  }

  /**
   * Starts a client.
   *
   * @param settings how it works
   * @throws IllegalArgumentException a property of Kafka cannot be used; the message names it
   */
  public MillstreamClient(ClientSettings settings) {
    this.settings = settings;
    writer = new RequestWriter(settings);
    results = new ResultReader(settings.mapper());
    timers = startTimers();
    sender = startSender(settings, timers);
    callbacks = new Callbacks(settings);
    waiting = new WaitingCalls(settings.maxWaiting(), callbacks, results, timers);
    late = settings.listener().map(listener -> new LateResults(listener, results, callbacks, settings.maxWaiting()));
    reader = settings.replyTopic().map(topic -> new ReplyReader(settings, topic, sender, results, replies));
    reader.ifPresent(reading -> reading.ready().thenRun(sender::tryAgain));
  }

  private static ScheduledExecutorService startTimers() {
    ScheduledThreadPoolExecutor timers = new ScheduledThreadPoolExecutor(1, Callbacks.daemons("millstream-timers"));
    // The deadline of a call that was answered would hold the call until it comes.
    timers.setRemoveOnCancelPolicy(true);
    return timers;
  }

  private static RequestSender startSender(ClientSettings settings, ScheduledExecutorService timers) {
    try {
      return new RequestSender(settings, timers);
    } catch (KafkaException error) {
      timers.shutdownNow();
      Throwable cause = error.getCause() == null ? error : error.getCause();
      throw new IllegalArgumentException("the properties of Kafka cannot be used: " + cause.getMessage(), error);
    }
  }

  @Override
  public <T> CompletableFuture<PipelineResult<T>> call(PipelineRequest request, Class<T> type) {
    return future(request, results.typeOf(type));
  }

  @Override
  public <T> CompletableFuture<PipelineResult<T>> call(PipelineRequest request, TypeReference<T> type) {
    return future(request, results.typeOf(type));
  }

  @Override
  public CompletableFuture<Receipt> send(PipelineRequest request) {
    CompletableFuture<Receipt> receipt = new CompletableFuture<>();
    try {
      RequestWriter.Written written = writer.write(request);
      refuseWhenClosed(written.id());
      sender.send(written, this::missesNothing, settings.sendPatience(), new Forgotten(written.id(), receipt));
    } catch (MillstreamException refused) {
      receipt.completeExceptionally(refused);
    }
    return receipt;
  }

  @Override
  public <T> CompletableFuture<Receipt> send(PipelineRequest request, Class<T> type, ResultListener<T> listener) {
    Call<T> call;
    try {
      call = start(request, results.typeOf(type));
    } catch (MillstreamException refused) {
      callbacks.run(() -> listener.onError(refused));
      return CompletableFuture.failedFuture(refused);
    }
    call.future.whenComplete((result, error) -> callbacks.run(() -> tell(listener, result, error)));
    return call.receipt;
  }

  @Override
  public int waiting() {
    return waiting.size();
  }

  @Override
  public void close(Duration patience) {
    synchronized (this) {
      if (closed) {
        return;
      }
      closed = true;
    }
    waiting.awaitNone(patience);
    timers.shutdownNow();
    sender.close(FLUSH);
    waiting.close();
    reader.ifPresent(ReplyReader::close);
    callbacks.close();
  }

  // --- a request on its way --------------------------------------------------------------------------------------------------

  private <T> CompletableFuture<PipelineResult<T>> future(PipelineRequest request, JavaType type) {
    try {
      return this.<T>start(request, type).future;
    } catch (MillstreamException refused) {
      return CompletableFuture.failedFuture(refused);
    }
  }

  /** Takes a request in, and sends it as soon as no result of it can be missed. */
  private <T> Call<T> start(PipelineRequest request, JavaType type) {
    ReplyReader reading =
        reader.orElseThrow(() -> new IllegalStateException(ClientSettings.REPLIES + "=none: this client reads no results, it only sends"));
    RequestWriter.Written written = writer.write(request);
    refuseWhenClosed(written.id());
    Function<Call<?>, DeadlineException> lateness = call -> late(call, written, reading);
    Call<T> call = waiting.admit(written, type, lateness);
    call.future.whenComplete((result, error) -> failReceipt(call, error));
    // The call's own deadline ends it; the sender must not be first with a poorer reason.
    sender.send(written, reading.ready()::isDone, written.deadline().plus(FLUSH), new Waited(call));
    if (closed) {
      // Closed since the look above: `close` may have passed this call by.
      waiting.end(call, new ClientClosedException("the client was closed before there was a result", call.id));
    }
    return call;
  }

  /** What becomes of a request whose result is waited for. */
  private final class Waited implements RequestSender.Outcome {
    private final Call<?> call;

    Waited(Call<?> call) {
      this.call = call;
    }

    @Override
    public boolean wanted() {
      return !call.future.isDone();
    }

    @Override
    public void sent(RecordRef where) {
      call.acknowledged(where).forEach(replies::take);
      callbacks.run(() -> call.receipt.complete(new Receipt(call.id, where)));
    }

    @Override
    public void failed(MillstreamException error) {
      call.unacknowledged().forEach(replies::take);
      RecordRef where = call.record();
      if (where == null) {
        waiting.end(call, error);
      } else {
        callbacks.run(() -> call.receipt.complete(new Receipt(call.id, where)));
      }
    }
  }

  /** What becomes of a request that is sent and forgotten. */
  private final class Forgotten implements RequestSender.Outcome {
    private final String id;
    private final CompletableFuture<Receipt> receipt;

    Forgotten(String id, CompletableFuture<Receipt> receipt) {
      this.id = id;
      this.receipt = receipt;
    }

    @Override
    public boolean wanted() {
      return !receipt.isDone();
    }

    @Override
    public void sent(RecordRef where) {
      callbacks.run(() -> receipt.complete(new Receipt(id, where)));
    }

    @Override
    public void failed(MillstreamException error) {
      callbacks.run(() -> receipt.completeExceptionally(error));
    }
  }

  /** Whether a request may go that nobody waits for: the listener must not miss its result. */
  private boolean missesNothing() {
    return late.isEmpty() || reader.isEmpty() || reader.get().ready().isDone();
  }

  /** A receipt never stays open: who ends before the acknowledgement has none. */
  private void failReceipt(Call<?> call, Throwable error) {
    if (error != null) {
      call.receipt.completeExceptionally(error);
    }
  }

  private DeadlineException late(Call<?> call, RequestWriter.Written written, ReplyReader reading) {
    RecordRef where = call.record();
    StringBuilder words = new StringBuilder("no result of %s within %s s; ".formatted(written.pipeline(), seconds(written.deadline())));
    if (where != null) {
      words.append("the request stays on the log, at ").append(where);
    } else {
      words.append(reading.ready().isDone() ? "the broker has not acknowledged the request" : "the request was not sent");
    }
    if (!reading.trouble().isEmpty()) {
      words.append("; ").append(reading.trouble());
    }
    String mend = "see that a node works and what it does: millstream status";
    if (!settings.replyTo().isEmpty()) {
      mend += "; that it may answer on " + settings.replyTo() + ": setting node.reply_topics";
    }
    return new DeadlineException(words.toString(), mend, call.id, where);
  }

  private static String seconds(Duration time) {
    return String.valueOf(time.toMillis() / 1000.0);
  }

  private void refuseWhenClosed(String id) {
    if (closed) {
      throw new ClientClosedException("the client is closed, the request was not sent", id);
    }
  }

  // --- a result that came ----------------------------------------------------------------------------------------------------

  /** Gives results to the calls that wait for them, else to the listener. */
  private final class Replies implements ReplyReader.Taker {
    @Override
    public void take(Call.Reply reply) {
      Call.Offered offered = waiting.offer(reply);
      if (late.isEmpty()) {
        return;
      }
      switch (offered) {
        case MINE -> late.get().known(reply.head().record());
        case NOT_MINE -> late.get().tell(reply);
        case HELD -> {} // until the acknowledgement; then it comes here again
      }
    }

    @Override
    public void awaitRoom() throws InterruptedException {
      if (late.isPresent()) {
        late.get().awaitRoom();
      }
    }
  }

  private static <T> void tell(ResultListener<T> listener, PipelineResult<T> result, Throwable error) {
    if (error == null) {
      listener.onResult(result);
    } else if (error instanceof MillstreamException known) {
      listener.onError(known);
    } else {
      throw new IllegalStateException("a call ended in a way that no call has", error);
    }
  }
}
