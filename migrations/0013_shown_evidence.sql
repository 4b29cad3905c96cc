-- What the clinical view shows of a finding's evidence, as JSON beside the finding: a chart of 2,000 events needs no look-up of
-- 4,000 rows that are as wide as their quotes. It says what the rows of finding_evidence say and is written with them, once. Null in
-- findings that are older than this column: theirs is read from those rows.
alter table findings add column shown_evidence json;
