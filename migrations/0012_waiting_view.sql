-- The clinical view of a number that is nobody's yet (docs/linking.md, docs/clinical.md).

-- The number by itself in a column: row-level security lets an index answer comparisons of columns, but not of what `substr` and
-- `strpos` make of them, so that the expression's index was never used and every look-up read all events that wait.
alter table clinical_events
  add column waiting_number text generated always as (
    case when link_status = 'pending' and starts_with(subject_key, 'mrn:')
      then substr(subject_key, strpos(subject_key, '|') + 1) end) stored;
create index clinical_events_waiting_number on clinical_events (organization_id, waiting_number, subject_key)
  where waiting_number is not null;
drop index clinical_events_pending_mrn;

alter table patient_statement_keys
  add column number text generated always as (case when kind = 'mrn' then substr(key, strpos(key, '|') + 1) end) stored;
create index patient_statement_keys_by_number on patient_statement_keys (organization_id, number) where number is not null;

-- One page of a category, of events that wait for a key and of those that follow a statement: in the view's order, as
-- clinical_events_view has it for patients. Both also serve who asks for the key or the statement only.
create index clinical_events_waiting
  on clinical_events (organization_id, subject_key, category, is_current, clinical_at, id)
  where link_status = 'pending';
drop index clinical_events_pending;
create index clinical_events_following
  on clinical_events (organization_id, statement_id, category, is_current, clinical_at, id)
  where link_status <> 'linked' and statement_id is not null;
drop index clinical_events_unlinked_statement;
