-- view: what `sqstee drain SOURCE --layout parquet -O logs` wrote
CREATE OR REPLACE VIEW lines AS
SELECT * FROM read_parquet('logs/lines/*/*/*.parquet');

-- lines: how many each host wrote on each stream
SELECT host, stream, count_if(eol) AS lines
FROM lines
WHERE stream IS NOT NULL
GROUP BY host, stream
ORDER BY host, stream;

-- failed: the runs that failed, each with the last five lines of its stderr
WITH failed AS (
  SELECT run, host, coalesce(job, name) AS job, message AS result, time AS ended
  FROM lines
  WHERE event = 'exit' AND (exit_code <> 0 OR signal IS NOT NULL OR cause = 'wrapper-died')
), errors AS (
  SELECT run, seq, message, row_number() OVER (PARTITION BY run ORDER BY seq DESC) AS back
  FROM lines
  WHERE stream = 'stderr' AND run IN (SELECT run FROM failed)
)
SELECT failed.run, failed.host, failed.job, failed.result, errors.seq, errors.message
FROM failed LEFT JOIN errors ON errors.run = failed.run AND errors.back <= 5
ORDER BY failed.ended DESC, failed.run, errors.seq;

-- gaps: the seqs that no row covers, and the lines that their sender dropped or sent elsewhere
SELECT run, host, covered + 1 AS first_seq, seq - 1 AS last_seq, 'not received' AS reason
FROM (
  SELECT run, host, seq, coalesce(max("last") OVER (
    PARTITION BY run ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1) AS covered
  FROM lines
) AS ordered
WHERE seq > covered + 1
UNION ALL
SELECT run, host, seq, "last", coalesce(reason, 'dropped')
FROM lines
WHERE event = 'gap'
ORDER BY run, first_seq;

-- verdicts: complete, missing or open, as `sqstee runs` and runs.ndjson have them
WITH ordered AS (
  SELECT *, coalesce(max("last") OVER (
    PARTITION BY run ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1) AS covered
  FROM lines
), counted AS (
  SELECT run, max(host) AS host, max(job) AS job, count_if(eol) AS lines,
    sum(CASE WHEN seq > covered + 1 THEN seq - covered - 1 ELSE 0 END) AS missing,
    sum(CASE WHEN event = 'gap' THEN "last" - seq + 1 ELSE 0 END) AS dropped,
    max(CASE WHEN event = 'end' OR (event = 'exit' AND "open" IS NULL) THEN 1 ELSE 0 END) AS ended
  FROM ordered
  GROUP BY run
)
SELECT run, host, job, lines, missing, dropped,
  CASE WHEN missing > 0 OR (dropped > 0 AND ended = 1) THEN 'missing'
       WHEN ended = 1 THEN 'complete'
       ELSE 'open' END AS verdict
FROM counted
ORDER BY run;

-- rebuild: the bytes of a run's streams, as its command wrote them
SELECT stream, unhex(string_agg(hex(
    coalesce(from_base64(raw), encode(message)) || CASE WHEN eol THEN '\x0A'::BLOB ELSE ''::BLOB END
  ), '' ORDER BY seq)) AS bytes
FROM lines
WHERE run = '01JD6Y0C3N5QK8T1V7W2X4Z9AB' AND stream IS NOT NULL
GROUP BY stream
ORDER BY stream;
