package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import com.fasterxml.jackson.databind.type.TypeFactory;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** Which results are a call's own: those that name its record, once. */
class CallTest {
  private static final RecordRef RECORD = new RecordRef("ml.pipeline.input", 3, 41);
  private static final RecordRef EARLIER = new RecordRef("ml.pipeline.input", 3, 7);

  private final Call<Object> call = new Call<>("1", "detect", TypeFactory.defaultInstance().constructType(Object.class));

  /** The result of the acknowledged record is taken, a second one is not. */
  @Test
  void oneResultIsTaken() {
    call.acknowledged(RECORD);

    assertEquals(Call.Offered.MINE, call.offer(reply(RECORD)));
    assertEquals(Call.Offered.NOT_MINE, call.offer(reply(RECORD)));
  }

  /** A result of an earlier record with the same id is not taken. */
  @Test
  void resultOfAnEarlierRecordIsNot() {
    call.acknowledged(RECORD);

    assertEquals(Call.Offered.NOT_MINE, call.offer(reply(EARLIER)));
    assertEquals(Call.Offered.MINE, call.offer(reply(RECORD)));
  }

  /** What comes before the acknowledgement waits for it, and is offered again. */
  @Test
  void resultsBeforeTheAcknowledgementAreHeld() {
    assertEquals(Call.Offered.HELD, call.offer(reply(EARLIER)));
    assertEquals(Call.Offered.HELD, call.offer(reply(RECORD)));

    List<Call.Reply> held = call.acknowledged(RECORD);

    assertEquals(List.of(Call.Offered.NOT_MINE, Call.Offered.MINE), held.stream().map(call::offer).toList());
  }

  /** Where the acknowledgement is lost but a result came, the latest one is the call's. */
  @Test
  void resultStandsForALostAcknowledgement() {
    call.offer(reply(EARLIER));
    call.offer(reply(RECORD));

    List<Call.Reply> held = call.unacknowledged();

    assertEquals(RECORD, call.record());
    assertEquals(List.of(Call.Offered.NOT_MINE, Call.Offered.MINE), held.stream().map(call::offer).toList());
  }

  /** Without acknowledgement and result there is no record. */
  @Test
  void nothingIsKnownWithoutEither() {
    assertEquals(List.of(), call.unacknowledged());
    assertNull(call.record());
  }

  /** However many results of one id come, few are held. */
  @Test
  void fewResultsAreHeld() {
    for (int offset = 0; offset < 1000; offset++) {
      call.offer(reply(new RecordRef("ml.pipeline.input", 3, offset)));
    }

    assertEquals(8, call.acknowledged(RECORD).size());
  }

  private static Call.Reply reply(RecordRef record) {
    return new Call.Reply(new ResultReader.Head("1", record), new byte[0], Map.of());
  }
}
