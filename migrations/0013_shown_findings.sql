-- What the clinical view shows of a finding, as JSON text beside its columns: a chart of 2,000 events is read as 2,000 texts, not as
-- 100,000 values of which the same text is made again. It says what the columns and the rows of finding_evidence say and is written
-- with them, once. Null in findings that are older than this column: theirs is made when they are read.
alter table findings add column shown text;
