package io.millstream.example;

import io.millstream.client.DeadlineException;
import io.millstream.client.InvalidRequestException;
import io.millstream.client.Millstream;
import io.millstream.client.MillstreamException;
import io.millstream.client.PipelineRequest;
import io.millstream.client.PipelineResult;
import io.millstream.client.Receipt;
import io.millstream.client.RequestException;
import io.millstream.client.ResultListener;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/** A service of an application, as it is given its collaborators: it knows the interface, not how it is served. */
final class SensorService {
  record Values(List<Double> values) {}

  record Trained(String model, int version) {}

  record Reading(String sensor, double value) {}

  record Question(Reading reading) {}

  record Verdict(double score, boolean unusual) {}

  private final Millstream millstream;
  private final PipelineRequest judge;

  SensorService(Millstream millstream, String tenant) {
    this.millstream = millstream;
    this.judge = PipelineRequest.of("sensors_judge").tenant(tenant).timeout(Duration.ofSeconds(10));
  }

  /** Long work: wait as long as it may take, and ask with a key of your own, so that asking again is the same run. */
  PipelineResult<Trained> train(String tenant, List<Double> values, String day) {
    PipelineRequest train =
        PipelineRequest.of("sensors_train", new Values(values)).tenant(tenant).idempotencyKey(day).deadline(Duration.ofMinutes(5));
    return millstream.call(train, Trained.class).join();
  }

  /** Short work: a template with the parameters of this call, and a future of the typed result. */
  CompletableFuture<PipelineResult<Verdict>> judge(Reading reading) {
    return millstream.call(judge.params(new Question(reading)), Verdict.class);
  }

  /** What can go wrong, by class or by code. */
  String explain(Object reading) {
    try {
      return "answer " + millstream.call(judge.params(Map.of("reading", reading)), Verdict.class).join().value();
    } catch (CompletionException ended) {
      if (ended.getCause() instanceof InvalidRequestException wrong) {
        return wrong.code() + " at " + wrong.path() + ": " + wrong.getMessage();
      }
      if (ended.getCause() instanceof RequestException answered) {
        return "ended " + answered.code() + "; mend: " + answered.mend();
      }
      if (ended.getCause() instanceof DeadlineException late) {
        return "no answer yet, the request is at " + late.record();
      }
      throw ended;
    }
  }

  /** Send and go on: the broker's receipt now, the result to a listener when it comes. */
  CompletableFuture<Receipt> watch(Reading reading, CompletableFuture<Verdict> seen) {
    return millstream.send(
        judge.params(new Question(reading)),
        Verdict.class,
        new ResultListener<>() {
          @Override
          public void onResult(PipelineResult<Verdict> result) {
            seen.complete(result.value());
          }

          @Override
          public void onError(MillstreamException error) {
            seen.completeExceptionally(error);
          }
        });
  }
}
