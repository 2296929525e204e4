package io.millstream.client;

import com.fasterxml.jackson.databind.JavaType;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * The calls that wait, by the id of their request: a bounded number of them. Each leaves once, by its result, its deadline, its
 * cancellation or the end of the client; its place is free before its callbacks run, so that a callback may call again.
 */
final class WaitingCalls {
  private final Map<String, Call<?>> calls = new ConcurrentHashMap<>();
  private final Semaphore places;
  private final int most;
  private final Callbacks callbacks;
  private final ResultReader results;
  private final ScheduledExecutorService timers;

  WaitingCalls(int most, Callbacks callbacks, ResultReader results, ScheduledExecutorService timers) {
    this.most = most;
    places = new Semaphore(most);
    this.callbacks = callbacks;
    this.results = results;
    this.timers = timers;
  }

  /**
   * Takes a call in; its deadline runs from now.
   *
   * @param late says, at the deadline, what kept the result away
   * @throws TooManyWaitingException there is no place
   * @throws InvalidRequestException a request with this id waits already
   * @throws ClientClosedException nobody waits any more
   */
  <T> Call<T> admit(RequestWriter.Written request, JavaType type, Function<Call<?>, DeadlineException> late) {
    Call<T> call = new Call<>(request.id(), request.pipeline(), type);
    if (!places.tryAcquire()) {
      throw new TooManyWaitingException(most, call.id);
    }
    if (calls.putIfAbsent(call.id, call) != null) {
      places.release();
      String message = "a request with this id waits for its result already";
      String mend = "leave the id to the client, or wait";
      throw new InvalidRequestException(new RequestException.Problem("bad_request", message, "$.id", mend, call.id), (Throwable) null);
    }
    // Cancelled, or completed by the application itself.
    call.future.whenComplete((result, error) -> leave(call));
    try {
      long deadlineMs = request.deadline().toMillis();
      call.deadline(timers.schedule(() -> end(call, late.apply(call)), deadlineMs, TimeUnit.MILLISECONDS));
    } catch (RejectedExecutionException closed) {
      leave(call);
      throw new ClientClosedException("the client is closed, the request was not sent", call.id);
    }
    return call;
  }

  /** Offers a reply to the call that waits for its id; it is not anybody's where none does, or for another record. */
  Call.Offered offer(Call.Reply reply) {
    Call<?> call = calls.get(reply.head().id());
    if (call == null) {
      return Call.Offered.NOT_MINE;
    }
    Call.Offered offered = call.offer(reply);
    if (offered == Call.Offered.MINE) {
      answer(call, reply);
    }
    return offered;
  }

  /** Ends a call with an error, on the executor. */
  void end(Call<?> call, MillstreamException error) {
    if (!call.future.isDone()) {
      callbacks.run(() -> endHere(call, error));
    }
  }

  int size() {
    return most - places.availablePermits();
  }

  /** Waits until nobody waits, or as long as that. */
  void awaitNone(Duration patience) {
    try {
      if (places.tryAcquire(most, patience.toMillis(), TimeUnit.MILLISECONDS)) {
        places.release(most);
      }
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  /** Ends every call that waits. */
  void close() {
    for (Call<?> call : new ArrayList<>(calls.values())) {
      end(call, new ClientClosedException("the client was closed before there was a result", call.id));
    }
  }

  private <T> void answer(Call<T> call, Call.Reply reply) {
    call.noDeadline();
    callbacks.run(
        () -> {
          PipelineResult<T> result;
          try {
            result = results.typed(results.read(reply.value(), reply.headers()), call.type);
          } catch (MillstreamException error) {
            endHere(call, error);
            return;
          }
          leave(call);
          call.future.complete(result);
        });
  }

  private void endHere(Call<?> call, MillstreamException error) {
    leave(call);
    call.future.completeExceptionally(error);
  }

  private void leave(Call<?> call) {
    if (call.left.compareAndSet(false, true)) {
      calls.remove(call.id, call);
      call.noDeadline();
      places.release();
    }
  }
}
