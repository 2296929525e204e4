package io.millstream.client;

import java.security.SecureRandom;

/**
 * Ids that sort by their time: 48 bits of Unix milliseconds, 80 random bits, Crockford base 32, 26 characters.
 *
 * <p>Source: the ULID specification, github.com/ulid/spec.
 */
final class Ulid {
  private static final char[] ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ".toCharArray();
  private static final SecureRandom RANDOM = new SecureRandom();

  private Ulid() {}

  static String next(long nowMs) {
    byte[] random = new byte[10];
    RANDOM.nextBytes(random);
    char[] id = new char[26];
    for (int i = 9; i >= 0; i--) {
      id[i] = ALPHABET[(int) (nowMs >>> 5 * (9 - i)) & 31];
    }
    // 80 bits are 16 characters of 5: two groups of 40 bits each.
    for (int group = 0; group < 2; group++) {
      long bits = 0;
      for (int i = 0; i < 5; i++) {
        bits = bits << 8 | random[5 * group + i] & 0xff;
      }
      for (int i = 7; i >= 0; i--) {
        id[10 + 8 * group + i] = ALPHABET[(int) bits & 31];
        bits >>>= 5;
      }
    }
    return new String(id);
  }
}
