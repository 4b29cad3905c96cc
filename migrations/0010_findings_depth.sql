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

-- How much a patient has, by source, so that no reader counts 50,000 rows. Kept by the trigger below, in the transaction of
-- the events themselves, whoever changes them.
create table patient_event_counts (
  organization_id uuid not null,
  patient_id uuid not null,
  source_label text not null,
  -- Current versions of all types.
  events bigint not null,
  -- When the newest event was stored.
  last_event_at timestamptz not null,
  primary key (organization_id, patient_id, source_label)
) with (fillfactor = 70);

insert into patient_event_counts (organization_id, patient_id, source_label, events, last_event_at)
select organization_id, patient_id, source_label, count(*) filter (where is_current), max(created_at)
from clinical_events
where patient_id is not null
group by organization_id, patient_id, source_label;

alter table findings force row level security;
alter table clinical_events force row level security;

alter table patient_event_counts enable row level security;
alter table patient_event_counts force row level security;
create policy tenant on patient_event_counts for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update, delete on patient_event_counts to chartgate_app;

-- Once a statement, in the order of the key. Jobs that concern one patient hold its subject lock anyway, so that two of
-- them do not wait for each other here in a circle.
create function count_patient_events() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into patient_event_counts as c (organization_id, patient_id, source_label, events, last_event_at)
    select organization_id, patient_id, source_label, count(*) filter (where is_current), max(created_at)
    from new_rows
    where patient_id is not null
    group by organization_id, patient_id, source_label
    order by organization_id, patient_id, source_label
    on conflict (organization_id, patient_id, source_label) do update
    set events = c.events + excluded.events,
        last_event_at = greatest(c.last_event_at, excluded.last_event_at);
  elsif tg_op = 'UPDATE' then
    insert into patient_event_counts as c (organization_id, patient_id, source_label, events, last_event_at)
    select n.organization_id, d.patient_id, n.source_label, sum(d.events), max(n.created_at)
    from old_rows o
    join new_rows n using (organization_id, id)
    cross join lateral (values (o.patient_id, -(o.is_current::int)), (n.patient_id, n.is_current::int)) as d (patient_id, events)
    -- Most updates change neither.
    where (o.patient_id, o.is_current) is distinct from (n.patient_id, n.is_current)
      and d.patient_id is not null
    group by n.organization_id, d.patient_id, n.source_label
    order by n.organization_id, d.patient_id, n.source_label
    on conflict (organization_id, patient_id, source_label) do update
    set events = c.events + excluded.events,
        last_event_at = greatest(c.last_event_at, excluded.last_event_at);
  else
    update patient_event_counts c
    set events = c.events - o.events
    from (
      select organization_id, patient_id, source_label, count(*) as events
      from old_rows
      where is_current
        and patient_id is not null
      group by organization_id, patient_id, source_label
    ) o
    where c.organization_id = o.organization_id
      and c.patient_id = o.patient_id
      and c.source_label = o.source_label;
  end if;
  return null;
end
$$;
create trigger count_inserted after insert on clinical_events
  referencing new table as new_rows for each statement execute function count_patient_events();
create trigger count_updated after update on clinical_events
  referencing old table as old_rows new table as new_rows for each statement execute function count_patient_events();
create trigger count_deleted after delete on clinical_events
  referencing old table as old_rows for each statement execute function count_patient_events();

-- One page of a category: its newest items, current ones apart from the others.
create index clinical_events_view
  on clinical_events (organization_id, patient_id, category, is_current, clinical_at, id);
drop index clinical_events_by_patient;
