package io.millstream.client;

import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;

/**
 * Tells the client's listener of results that nobody waits for, each record's result once.
 *
 * <p>Bounded: the reading thread waits for room before it reads on, so what a slow listener has not taken stays on the topic.
 */
final class LateResults {
  private final ResultListener<JsonNode> listener;
  private final ResultReader results;
  private final Callbacks callbacks;
  private final int most;
  private final JavaType json;

  /** The records whose results were given to anybody, the last ones: a copy of such a result is no news. */
  private final Set<RecordRef> known;

  private int untold;

  LateResults(ResultListener<JsonNode> listener, ResultReader results, Callbacks callbacks, int most) {
    this.listener = listener;
    this.results = results;
    this.callbacks = callbacks;
    this.most = most;
    json = results.typeOf(JsonNode.class);
    known = lastOnes(most);
  }

  /** A call has this record's result. */
  void known(RecordRef record) {
    known.add(record);
  }

  /** Tells the listener, on the executor. */
  void tell(Call.Reply reply) {
    if (!known.add(reply.head().record())) {
      return;
    }
    synchronized (this) {
      untold++;
    }
    callbacks.run(
        () -> {
          try {
            tellHere(reply);
          } finally {
            synchronized (this) {
              untold--;
              notifyAll();
            }
          }
        });
  }

  /** Waits while the listener has as much before it as it may have. */
  synchronized void awaitRoom() throws InterruptedException {
    while (untold >= most) {
      wait(Duration.ofSeconds(1).toMillis());
    }
  }

  private void tellHere(Call.Reply reply) {
    PipelineResult<JsonNode> result;
    try {
      result = results.typed(results.read(reply.value(), reply.headers()), json);
    } catch (MillstreamException error) {
      listener.onError(error);
      return;
    }
    listener.onResult(result);
  }

  private static Set<RecordRef> lastOnes(int most) {
    Map<RecordRef, Boolean> last =
        new LinkedHashMap<>() {
          private static final long serialVersionUID = 1L;

          @Override
          protected boolean removeEldestEntry(Map.Entry<RecordRef, Boolean> eldest) {
            return size() > most;
          }
        };
    return Collections.synchronizedSet(Collections.newSetFromMap(last));
  }
}
