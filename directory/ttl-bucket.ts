/**
 * Blobs that are to expire share volumes with others that live about as long, so that a volume goes as a
 * whole when its last needle has expired.
 *
 * A bucket is the next power of two in minutes: there are few, so there are few volumes.
 */

/** The bucket for needles that live so long; 0 for those that live for ever. */
export function ttlBucketSeconds(ttlSeconds: number): number {
  if (ttlSeconds === 0) return 0;
  let minutes = 1;
  while (minutes * 60 < ttlSeconds) minutes *= 2;
  return minutes * 60;
}

/**
 * How long a volume of a bucket takes needles. A quarter of their life, so that the first ones do not wait
 * much longer than they have to for the last; and never so short that there would be many volumes.
 */
export function openMsOf(bucketSeconds: number): number {
  return Math.max((bucketSeconds * 1_000) / 4, 600_000);
}
