-- What the clinical view shows of an event, beside the event: the members of its findings, as one JSON text. A chart of 2,000 events is
-- read along one index, in the order in which it is shown; looking up the findings of each event was most of what a chart cost.
-- It says what the findings of that extractor version say, with their evidence, and is written with them. Null where there are none, where
-- another resource names the medication, and in events that are older than the column: theirs is made from the findings' columns when
-- they are read.
alter table clinical_events
  add column shown text,
  add column shown_version integer;
-- findings.shown, which was the same by finding, is neither written nor read any more. It goes when no program writes it that was started
-- before this.
