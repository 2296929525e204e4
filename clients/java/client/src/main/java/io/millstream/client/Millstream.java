package io.millstream.client;

import com.fasterxml.jackson.core.type.TypeReference;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;

/**
 * What an application calls: requests to pipelines, and their results. Inject this type, and give it a {@link MillstreamClient}.
 *
 * <p>Every method may be called from any thread and reports what goes wrong through the future that it returns, as a {@link
 * MillstreamException} (inside {@link java.util.concurrent.ExecutionException} or {@link
 * java.util.concurrent.CompletionException}, as futures do). A request that was acknowledged will have exactly one result,
 * whatever happens to this process; only its waiting ends with a deadline, a cancellation or a close. No method but {@code close}
 * holds up its thread: while the cluster is away, requests wait to be sent until their deadline, 32 MiB of them.
 */
public interface Millstream extends AutoCloseable {

  /**
   * Sends a request and waits for its result.
   *
   * <p>Cancelling the future ends the waiting. A request that was not handed to Kafka by then is not sent; one that was stays on
   * the log and is answered.
   *
   * @param <T> the type of the value
   * @param request what is asked
   * @param type what the pipeline's return value becomes; {@code JsonNode.class} takes anything
   * @return the result, whose status is ok; completed exceptionally with {@link RequestException} where the request ended
   *     otherwise, {@link DeadlineException}, {@link SendException}, {@link ResultTypeException}, {@link
   *     TooManyWaitingException} or {@link ClientClosedException}. Its callbacks run on the client's executor.
   */
  <T> CompletableFuture<PipelineResult<T>> call(PipelineRequest request, Class<T> type);

  /**
   * Like {@link #call(PipelineRequest, Class)}, for types with parameters of their own such as lists.
   *
   * @param <T> the type of the value
   * @param request what is asked
   * @param type what the pipeline's return value becomes, as {@code new TypeReference<List<Verdict>>() {}}
   * @return the result, as of {@link #call(PipelineRequest, Class)}
   */
  <T> CompletableFuture<PipelineResult<T>> call(PipelineRequest request, TypeReference<T> type);

  /**
   * Sends a request and waits for nothing but the broker. Its result goes to {@link ClientSettings#listener} where one is set.
   *
   * @param request what is asked
   * @return the acknowledgement; completed exceptionally with {@link SendException}, {@link InvalidRequestException} or {@link
   *     ClientClosedException}
   */
  CompletableFuture<Receipt> send(PipelineRequest request);

  /**
   * Sends a request whose result a listener is told. It counts among those that wait, until its result or its deadline.
   *
   * @param <T> the type of the value
   * @param request what is asked
   * @param type what the pipeline's return value becomes
   * @param listener told once: the result, or what kept it away
   * @return the acknowledgement, as of {@link #send(PipelineRequest)}
   */
  <T> CompletableFuture<Receipt> send(PipelineRequest request, Class<T> type, ResultListener<T> listener);

  /**
   * How many requests wait for their result now.
   *
   * @return at most {@link ClientSettings#maxWaiting}
   */
  int waiting();

  /**
   * Takes no more requests, waits for the results of those that were made, then closes.
   *
   * @param patience how long to wait for results; those that have none by then end with {@link ClientClosedException}
   */
  void close(Duration patience);

  /** Closes at once: what was handed to Kafka is still sent, what waits ends with {@link ClientClosedException}. */
  @Override
  default void close() {
    close(Duration.ZERO);
  }
}
