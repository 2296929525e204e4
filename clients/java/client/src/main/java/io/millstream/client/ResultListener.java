package io.millstream.client;

/**
 * Is told how a request ended that nobody waits for. Called on the client's executor: results of several requests come on
 * several threads, in any order. What it throws is logged.
 *
 * @param <T> the type of the value
 */
@FunctionalInterface
public interface ResultListener<T> {

  /**
   * The request ended with status {@code ok}.
   *
   * @param result its result
   */
  void onResult(PipelineResult<T> result);

  /**
   * The request ended otherwise, was not sent, or had no result until its deadline. The default logs a warning.
   *
   * @param error why, with the id of the request
   */
  default void onError(MillstreamException error) {
    Callbacks.LOG.warn("no result for a listener: {}", error.toString());
  }
}
