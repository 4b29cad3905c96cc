-- The Athena gateway: events as received, their parts, and counts that stay cheap (docs/athena.md).

create table athena_events (
  organization_id uuid not null,
  -- The id of the 202; `clinical_events` has a row of the same id once the event is processed.
  id uuid not null,
  -- SHA-256 of the canonical form of patient, type and payload.
  idempotency_sha256 bytea not null check (length(idempotency_sha256) = 32),
  athena_patient_id text not null,
  -- As sent, and what it means.
  event_type text not null,
  kind text not null check (kind in ('medication', 'problem', 'vital', 'lab', 'allergy', 'immunization', 'procedure', 'encounter', 'document', 'other')),
  event_subtype text,
  source_endpoint text,
  -- As given; not every text is a time.
  captured_at text,
  job_id uuid not null,
  payload_sha256 bytea not null,
  received_at timestamptz not null,
  primary key (organization_id, id),
  unique (organization_id, idempotency_sha256)
);
create index athena_events_by_patient on athena_events (organization_id, athena_patient_id, id);
create index athena_events_by_kind on athena_events (organization_id, athena_patient_id, kind, id);

-- Changes of counts, appended by intake and by the trigger below, folded together by the sweeper. A row of counts would be
-- locked by every transaction from its change to its end.
create table athena_counts (
  organization_id uuid not null,
  -- Start of the minute; -infinity: all time before the minutes that are kept apart.
  minute timestamptz not null,
  -- received, duplicate and sighting by kind of event; job by status.
  measure text not null check (measure in ('received', 'duplicate', 'sighting', 'job')),
  name text not null,
  n bigint not null
);
create index athena_counts_by_organization on athena_counts (organization_id, minute);

alter table clinical_events
  -- Of a part of an Athena event: the event.
  add column part_of uuid,
  -- Where it stands in its payload, if that is not a Bundle.
  add column pointer text;
create index clinical_events_parts on clinical_events (organization_id, part_of) where part_of is not null;

-- How a job of an Athena event stands, counted where it changes.
create function count_athena_jobs() returns trigger language plpgsql as $$
begin
  insert into athena_counts (organization_id, minute, measure, name, n)
  values (new.organization_id, date_trunc('minute', new.updated_at), 'job', old.status, -1),
         (new.organization_id, date_trunc('minute', new.updated_at), 'job', new.status, 1);
  return null;
end
$$;
create trigger count_athena after update on jobs for each row
  when (new.source = 'athena' and old.status is distinct from new.status)
  execute function count_athena_jobs();

-- Parts are counted with their event.
create or replace function count_patient_events() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into patient_event_counts as c (organization_id, patient_id, source_label, events, last_event_at)
    select organization_id, patient_id, source_label, count(*) filter (where is_current and part_of is null), max(created_at)
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
    cross join lateral (values (o.patient_id, -(o.is_current and o.part_of is null)::int),
                               (n.patient_id, (n.is_current and n.part_of is null)::int)) as d (patient_id, events)
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
        and part_of is null
      group by organization_id, patient_id, source_label
    ) o
    where c.organization_id = o.organization_id
      and c.patient_id = o.patient_id
      and c.source_label = o.source_label;
  end if;
  return null;
end
$$;

grant select, insert on athena_events to chartgate_app;
grant select, insert, delete on athena_counts to chartgate_app;

do $$
declare
  t text;
begin
  foreach t in array array['athena_events', 'athena_counts'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I for all to chartgate_app
         using (array_position((select tenant_organizations()), organization_id) is not null)
         with check (organization_id = any ((select tenant_organizations())::uuid[]))', t);
  end loop;
end $$;
