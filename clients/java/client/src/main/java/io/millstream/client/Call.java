package io.millstream.client;

import com.fasterxml.jackson.databind.JavaType;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * One request that waits for its result.
 *
 * <p>A result is this call's when it names the record that the broker acknowledged. One that comes before the acknowledgement is
 * held until then, since the id alone may be that of an earlier record.
 */
final class Call<T> {
  /** The results of an id that one can have before the acknowledgement comes: its own, and some of older records. */
  private static final int MOST_HELD = 8;

  final String id;
  final String pipeline;
  final JavaType type;
  final CompletableFuture<PipelineResult<T>> future = new CompletableFuture<>();
  final CompletableFuture<Receipt> receipt = new CompletableFuture<>();

  /** Whether its place among the waiting was given back. */
  final AtomicBoolean left = new AtomicBoolean();

  private RecordRef record;
  private boolean answered;
  private List<Reply> held = new ArrayList<>(1);
  private Future<?> deadline;

  Call(String id, String pipeline, JavaType type) {
    this.id = id;
    this.pipeline = pipeline;
    this.type = type;
  }

  /** A result as it came. */
  record Reply(ResultReader.Head head, byte[] value, Map<String, String> headers) {}

  /** What becomes of a reply that was offered. */
  enum Offered {
    MINE,
    HELD,
    NOT_MINE
  }

  /** Offers a reply with this call's id; {@code MINE} is said once. */
  synchronized Offered offer(Reply reply) {
    if (answered) {
      return Offered.NOT_MINE;
    }
    if (record == null) {
      if (held.size() == MOST_HELD) {
        held.remove(0);
      }
      held.add(reply);
      return Offered.HELD;
    }
    if (!record.equals(reply.head().record())) {
      return Offered.NOT_MINE;
    }
    answered = true;
    return Offered.MINE;
  }

  /** The broker has the request: which of the replies that came before, and now are given back, is its result is known. */
  synchronized List<Reply> acknowledged(RecordRef where) {
    record = where;
    return takeHeld();
  }

  /** The acknowledgement did not come: a reply that came all the same, the latest, is the result. */
  synchronized List<Reply> unacknowledged() {
    List<Reply> replies = takeHeld();
    if (!replies.isEmpty()) {
      record = replies.get(replies.size() - 1).head().record();
    }
    return replies;
  }

  private List<Reply> takeHeld() {
    List<Reply> replies = held;
    held = new ArrayList<>(1);
    return replies;
  }

  synchronized RecordRef record() {
    return record;
  }

  synchronized void deadline(Future<?> timer) {
    deadline = timer;
    if (left.get()) {
      timer.cancel(false);
    }
  }

  synchronized void noDeadline() {
    if (deadline != null) {
      deadline.cancel(false);
    }
  }
}
