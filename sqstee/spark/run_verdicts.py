"""The verdict on each run, computed by Spark SQL: the same as that of `sqstee drain` on the same records.

The frame is read once. Records are put into stretches without a hole, of which a run has few; all later steps work on
these. A gap event counts for those of its seqs that no record has, and that no gap event before it has claimed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_MOST_RANGES = 20  # of missing seqs that a verdict names, as in drain's

_VERDICTS = """
WITH marked AS (
  SELECT *, event <=> 'gap' AS is_gap,
    IF(event <=> 'gap' AND reason <=> 'fallback', coalesce(at, ''), '') AS elsewhere
  FROM {frame}
), reached AS (
  SELECT *, max(last) OVER (PARTITION BY run, is_gap ORDER BY seq, last
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach
  FROM marked
), numbered AS (
  SELECT *, sum(IF(is_gap OR reach IS NULL OR seq > reach + 1, 1, 0)) OVER (
              PARTITION BY run, is_gap ORDER BY seq, last ROWS UNBOUNDED PRECEDING) AS stretch
  FROM reached
), by_stream AS (
  SELECT run, is_gap, stretch, stream, max(elsewhere) AS elsewhere,
    min(IF(is_gap, greatest(seq, coalesce(reach + 1, 0)), seq)) AS first, max(last) AS last,
    count_if(eol) AS lines, max(struct(seq, eol)) AS final, min(struct(seq, host, job)) AS head,
    min(time) AS time, min(time) FILTER (WHERE event = 'start') AS started,
    max(struct(seq, time, exit_code, signal, cause, duration_s, message)) FILTER (WHERE event = 'exit') AS exit,
    max(struct(seq, event = 'end' OR coalesce(size(open), 0) <= 0 AS ends)) FILTER (
      WHERE event IN ('exit', 'end')) AS closing
  FROM numbered GROUP BY run, is_gap, stretch, stream
), by_stretch AS (
  SELECT run, is_gap, max(elsewhere) AS elsewhere, min(first) AS first, max(last) AS last,
    collect_list(IF(stream IS NULL, NULL, struct(stream, lines, final))) AS streams, min(head) AS head,
    min(time) AS time, min(started) AS started, max(exit) AS exit, max(closing) AS closing
  FROM by_stream GROUP BY run, is_gap, stretch
), by_run AS (
  SELECT run, max(last) + 1 AS size, min(head) AS head, coalesce(min(started), min(time)) AS started,
    max(exit) AS exit, coalesce(max(closing).ends, false) AS ended, flatten(collect_list(streams)) AS streams,
    sort_array(collect_list(IF(is_gap, NULL, struct(first, last)))) AS records,
    collect_list(IF(is_gap AND first <= last, struct(first, last, elsewhere), NULL)) AS gaps
  FROM by_stretch GROUP BY run
), counted AS (
  SELECT *,
    aggregate(records, 0L, (n, r) -> n + r.last - r.first + 1) AS received,
    transform(gaps, g -> struct(g.elsewhere, g.last - g.first + 1 - aggregate(records, 0L, (n, r) ->
      n + greatest(0L, least(r.last, g.last) - greatest(r.first, g.first) + 1)) AS seqs)) AS claimed,
    aggregate(
      sort_array(concat(records, transform(gaps, g -> struct(g.first, g.last)))),
      struct(0L AS next, CAST(array() AS ARRAY<STRUCT<first: BIGINT, last: BIGINT>>) AS holes),
      (found, one) -> struct(
        greatest(found.next, one.last + 1) AS next,
        IF(one.first > found.next AND size(found.holes) < {most},
           concat(found.holes, array(struct(found.next AS first, one.first - 1 AS last))), found.holes) AS holes)
    ).holes AS missing_ranges
  FROM by_run
), summed AS (
  SELECT *, aggregate(claimed, 0L, (n, c) -> n + IF(c.elsewhere = '', c.seqs, 0L)) AS dropped,
    aggregate(claimed, 0L, (n, c) -> n + IF(c.elsewhere = '', 0L, c.seqs)) AS elsewhere
  FROM counted
), judged AS (
  SELECT *, size - received - dropped - elsewhere AS missing FROM summed
)
SELECT run, head.host AS host, coalesce(head.job, '') AS job,
  CASE WHEN missing > 0 OR (dropped + elsewhere > 0 AND ended) THEN 'missing'
       WHEN ended THEN 'complete' ELSE 'open' END AS verdict,
  map_from_entries(transform(array_sort(array_distinct(transform(streams, s -> s.stream))), name -> struct(name,
    aggregate(filter(streams, s -> s.stream = name), 0L, (n, s) -> n + s.lines)
    + IF(array_max(transform(filter(streams, s -> s.stream = name), s -> s.final)).eol, 0L, 1L)))) AS lines,
  missing, missing_ranges, dropped, elsewhere,
  map_from_entries(transform(
    array_distinct(transform(filter(claimed, c -> c.elsewhere <> '' AND c.seqs > 0), c -> c.elsewhere)),
    at -> struct(at, aggregate(filter(claimed, c -> c.elsewhere = at), 0L, (n, c) -> n + c.seqs)))) AS fallbacks,
  coalesce(exit.exit_code <> 0, false) OR exit.signal IS NOT NULL OR exit.cause <=> 'wrapper-died' AS failed,
  exit.exit_code AS exit_code, exit.signal AS signal, exit.cause AS cause, coalesce(exit.message, '') AS result,
  started, exit.time AS ended, exit.duration_s AS duration_s
FROM judged
"""


def verdicts(frame: DataFrame) -> DataFrame:
    """One row per run in a frame of `read`: which of its lines have come, and how its command ended.

    `verdict` is complete, missing (lines never came, or were dropped in a run that has ended) or open. `missing` counts
    the seqs that never came, and `missing_ranges` names the first of them; `dropped` those that the sender dropped,
    `elsewhere` those that went to its fallback, with the destinations in `fallbacks`. `lines` counts the lines of each
    stream. `failed`: the command did not succeed.
    """
    return frame.sparkSession.sql(_VERDICTS, frame=frame, most=_MOST_RANGES)
