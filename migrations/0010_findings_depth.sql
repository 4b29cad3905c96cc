-- Findings in full: all fields, re-extraction by a newer extractor, and a view that sorts by clinical time.

-- When the resource says that it was: start of the stated time, else issued or recorded. Year 1 sorts what says nothing
-- last. It never changes, so that pages of the view stay where they are.
alter table clinical_events
  add column clinical_at timestamptz not null default '0001-01-01 00:00:00+00';

alter table findings
  -- JSON as it was written: `jsonb` would make 120 of 1.2E+2.
  alter column codings drop default,
  alter column codings type json using codings::json,
  alter column codings set default '[]',
  alter column component_of type json using component_of::json,
  alter column value_code type json using value_code::json,
  alter column reference_range type json using reference_range::json,
  alter column body_site type json using body_site::json,
  alter column performer type json using performer::json,
  alter column dosage type json using dosage::json,
  alter column reactions type json using reactions::json,
  -- Of allergies: how bad it may become. `severity` is how bad it was.
  add column criticality text,
  -- Members of the resource that have no column of their own, by their FHIR names.
  add column details json,
  -- `Medication/id` of the same source, where the medication is not said in the same Bundle.
  add column medication_reference text,
  -- The job whose payload the evidence quotes.
  add column job_id uuid,
  -- The finding of a newer extractor version that takes this one's place.
  add column superseded_by uuid,
  drop constraint findings_value_type_check,
  add constraint findings_value_type_check check (value_type in
    ('quantity', 'code', 'string', 'boolean', 'integer', 'range', 'ratio', 'datetime', 'time', 'period', 'sampled_data', 'absent', 'other')),
  add constraint findings_laterality_check check (laterality in ('left', 'right', 'bilateral')),
  -- A newer extractor stores its findings beside the older ones, which it supersedes.
  drop constraint findings_organization_id_event_id_ordinal_key,
  add constraint findings_of_event unique (organization_id, event_id, extractor_version, ordinal);

-- What is stored already. The owner is subject to the policies as long as they are forced.
alter table findings no force row level security;
alter table clinical_events no force row level security;
update clinical_events e
set clinical_at = f.effective_at
from (
  select organization_id, event_id, min(effective_at) as effective_at
  from findings
  where effective_at is not null
  group by organization_id, event_id
) f
where e.organization_id = f.organization_id
  and e.id = f.event_id;
alter table findings force row level security;
alter table clinical_events force row level security;

-- One page of a category: its newest items, current ones apart from the others. Sources, counts and the newest event of a
-- patient are read from it alone.
create index clinical_events_view
  on clinical_events (organization_id, patient_id, category, is_current, clinical_at, id)
  include (source_label, created_at);
drop index clinical_events_by_patient;
