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
  id bigint generated always as identity,
  -- Start of the minute; -infinity: all time before the minutes that are kept apart.
  minute timestamptz not null,
  -- received, duplicate and sighting by kind of event; job by status.
  measure text not null check (measure in ('received', 'duplicate', 'sighting', 'job')),
  name text not null,
  n bigint not null,
  primary key (organization_id, id)
);

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


-- As submit_jobs, with what a repetition has in common with the first apart from the bytes: an Athena event is the same
-- event with its keys in another order.
drop function submit_jobs(uuid[], uuid[], text[], integer[], text[], text[], text[], text[], bytea[], bytea[], text[], bigint[], smallint[], jsonb[], text[], text[], text[], bigint[], text);
create function submit_jobs(
  p_organization uuid[], p_job uuid[], p_workflow text[], p_version integer[], p_source text[], p_source_label text[],
  p_scope text[], p_key text[], p_fingerprint bytea[], p_sha256 bytea[], p_body bytea[], p_content_type text[], p_lane bigint[], p_priority smallint[],
  p_resource_count jsonb[], p_submitted_by text[], p_request_id text[], p_address text[], p_lanes bigint[], p_program text)
returns table (ordinal integer, outcome text, job_id uuid, created_at timestamptz, job_status text, error_class text, round integer)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v_organization uuid;
  v_fresh uuid[];
begin
  if cardinality(p_lanes) > 0 then
    perform lock_lanes(p_lanes);
  end if;
  for v_organization in select distinct o from unnest(p_organization) o order by o loop
    perform set_config('app.organization', array[v_organization]::text, true);
    with k as (
      insert into idempotency_keys (organization_id, scope, key, fingerprint, job_id, created_at)
      select t.o, t.scope, t.key, t.fingerprint, t.job, v_now
      from unnest(p_organization, p_scope, p_key, p_fingerprint, p_job) t(o, scope, key, fingerprint, job)
      where t.o = v_organization
      order by t.scope, t.key
      on conflict do nothing
      returning job_id)
    select coalesce(array_agg(k.job_id), '{}') into v_fresh from k;

    if cardinality(v_fresh) > 0 then
      insert into payloads (organization_id, sha256, size_bytes, content_type, body, created_at)
      select t.o, t.sha256, length(t.body), t.content_type, t.body, v_now
      from unnest(p_organization, p_job, p_sha256, p_content_type, p_body) t(o, job, sha256, content_type, body)
      where t.o = v_organization and t.job = any (v_fresh)
      order by t.sha256
      on conflict do nothing;

      with fresh as materialized (
        select t.*, nextval('job_seq') seq,
          case when t.lane is not null and (
              row_number() over (partition by t.lane order by t.n) > 1
              or exists (select from queue a where a.organization_id = t.o and a.lane = t.lane and a.state <> 'blocked'))
            then 'blocked' else 'ready' end state
        from (
          select *
          from unnest(p_organization, p_job, p_workflow, p_version, p_source, p_source_label, p_sha256, p_content_type, p_lane, p_priority,
                      p_resource_count, p_submitted_by, p_request_id, p_body)
            with ordinality t(o, job, workflow, version, source, source_label, sha256, content_type, lane, priority,
                              resource_count, submitted_by, request_id, body, n)
          where t.o = v_organization and t.job = any (v_fresh)
          order by t.n) t
      ), queued as (
        insert into queue (organization_id, seq, job_id, workflow, workflow_version, lane, state, priority, enqueued_at)
        select o, seq, job, workflow, version, lane, state, priority, v_now from fresh order by seq
      )
      insert into jobs (organization_id, id, workflow, workflow_version, source, source_label, status, seq, lane, priority,
                        payload_sha256, size_bytes, content_type, resource_count, submitted_by, request_id, created_at, updated_at)
      select o, job, workflow, version, source, source_label, 'queued', seq, lane, priority,
             sha256, length(body), content_type, resource_count, submitted_by, request_id, v_now, v_now
      from fresh;

      insert into audit_records (organization_id, at, event, action, actor, authentication, address, job_id, request_id, body_sha256, program_version)
      select t.o, v_now, 'job.accepted', 'C', t.submitted_by, 'api_key', t.address, t.job, t.request_id, t.sha256, p_program
      from unnest(p_organization, p_job, p_submitted_by, p_address, p_request_id, p_sha256) t(o, job, submitted_by, address, request_id, sha256)
      where t.o = v_organization and t.job = any (v_fresh);
    end if;

    return query
    select t.n::integer, 'accepted', t.job, v_now, 'queued', null::text, 1
    from unnest(p_organization, p_job) with ordinality t(o, job, n)
    where t.o = v_organization and t.job = any (v_fresh);

    if cardinality(v_fresh) < (select count(*) from unnest(p_organization) o where o = v_organization) then
      -- A fresh statement: it sees the first job of a key also when that was committed while we waited for the key.
      -- `limit 1` keeps each look-up a look-up by key: as a join, the planner started from all jobs of the organization.
      return query
      select t.n::integer, case when k.fingerprint = t.fingerprint then 'duplicate' else 'mismatch' end, k.job_id, j.created_at, j.status, j.error_class, j.round
      from unnest(p_organization, p_scope, p_key, p_fingerprint, p_job) with ordinality t(o, scope, key, fingerprint, job, n)
      cross join lateral (
        select x.job_id, x.fingerprint from idempotency_keys x
        where x.organization_id = t.o and x.scope = t.scope and x.key = t.key limit 1) k
      cross join lateral (
        select x.created_at, x.status, x.error_class, x.round from jobs x
        where x.organization_id = t.o and x.id = k.job_id limit 1) j
      where t.o = v_organization and t.job <> all (v_fresh);
    end if;
  end loop;
end $$;

create type submitted as (ordinal integer, outcome text, job_id uuid, created_at timestamptz, job_status text, error_class text, round integer);

-- Athena events: submit_jobs, and the events beside their jobs. A repetition that was captured at another time is a sighting
-- with a job of its own, under a key of its own. Answers as submit_jobs, with the event; the outcome `sighting` is a new one.
create function submit_athena_events(
  p_organization uuid[], p_job uuid[], p_workflow text[], p_version integer[], p_source text[], p_source_label text[],
  p_scope text[], p_key text[], p_fingerprint bytea[], p_sha256 bytea[], p_body bytea[], p_content_type text[], p_lane bigint[], p_priority smallint[],
  p_resource_count jsonb[], p_submitted_by text[], p_request_id text[], p_address text[], p_lanes bigint[], p_program text,
  p_event uuid[], p_patient text[], p_type text[], p_kind text[], p_subtype text[], p_endpoint text[], p_captured text[],
  p_captured_key text[])
returns table (ordinal integer, outcome text, job_id uuid, created_at timestamptz, job_status text, error_class text, round integer,
               event_id uuid)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v_organization uuid;
  v_first submitted[];
  v_again integer[] := '{}';
  v_second submitted[] := '{}';
begin
  v_first := array(
    select row(s.ordinal, s.outcome, s.job_id, s.created_at, s.job_status, s.error_class, s.round)::submitted
    from submit_jobs(p_organization, p_job, p_workflow, p_version, p_source, p_source_label, p_scope, p_key, p_fingerprint, p_sha256,
                     p_body, p_content_type, p_lane, p_priority, p_resource_count, p_submitted_by, p_request_id, p_address,
                     p_lanes, p_program) s);
  for v_organization in select distinct o from unnest(p_organization) o order by o loop
    perform set_config('app.organization', array[v_organization]::text, true);
    insert into athena_events (organization_id, id, idempotency_sha256, athena_patient_id, event_type, kind, event_subtype, source_endpoint,
                               captured_at, job_id, payload_sha256, received_at)
    select v_organization, p_event[s.ordinal], p_fingerprint[s.ordinal], p_patient[s.ordinal], p_type[s.ordinal], p_kind[s.ordinal],
           p_subtype[s.ordinal], p_endpoint[s.ordinal], p_captured[s.ordinal], s.job_id, p_sha256[s.ordinal], v_now
    from unnest(v_first) s
    where s.outcome = 'accepted' and p_organization[s.ordinal] = v_organization;
    insert into event_sightings (organization_id, event_id, captured_at, job_id, created_at)
    select v_organization, p_event[s.ordinal], p_captured_key[s.ordinal], s.job_id, v_now
    from unnest(v_first) s
    where s.outcome = 'accepted' and p_organization[s.ordinal] = v_organization and p_captured_key[s.ordinal] is not null;
    -- Known events, captured at a time at which their first job did not capture them.
    v_again := v_again || array(
      select s.ordinal
      from unnest(v_first) s
      where s.outcome = 'duplicate'
        and p_organization[s.ordinal] = v_organization
        and p_captured_key[s.ordinal] is not null
        and not exists (
          select from event_sightings e
          where e.organization_id = v_organization
            and e.event_id = (select a.id from athena_events a
                              where a.organization_id = v_organization and a.idempotency_sha256 = p_fingerprint[s.ordinal])
            and e.captured_at = p_captured_key[s.ordinal]
            and e.job_id = s.job_id)
      order by s.ordinal);
  end loop;

  if cardinality(v_again) > 0 then
    v_second := array(
      select row(v_again[s.ordinal], s.outcome, s.job_id, s.created_at, s.job_status, s.error_class, s.round)::submitted
      from submit_jobs(
        array(select p_organization[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_job[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_workflow[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_version[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_source[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_source_label[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_scope[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select 'sighting:' || encode(p_fingerprint[i], 'hex') || '@' || encode(sha256(convert_to(p_captured_key[i], 'UTF8')), 'hex')
              from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_fingerprint[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_sha256[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_body[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_content_type[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_lane[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_priority[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_resource_count[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_submitted_by[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_request_id[i] from unnest(v_again) with ordinality u(i, k) order by k),
        array(select p_address[i] from unnest(v_again) with ordinality u(i, k) order by k),
        -- The lanes are locked already.
        '{}', p_program) s);
  end if;

  for v_organization in select distinct o from unnest(p_organization) o order by o loop
    perform set_config('app.organization', array[v_organization]::text, true);
    insert into event_sightings (organization_id, event_id, captured_at, job_id, created_at)
    select v_organization, a.id, p_captured_key[s.ordinal], s.job_id, v_now
    from unnest(v_second) s
    cross join lateral (
      select x.id from athena_events x
      where x.organization_id = v_organization and x.idempotency_sha256 = p_fingerprint[s.ordinal] limit 1) a
    where s.outcome = 'accepted' and p_organization[s.ordinal] = v_organization
    on conflict do nothing;
    insert into athena_counts (organization_id, minute, measure, name, n)
    select v_organization, date_trunc('minute', v_now), c.measure, c.name, count(*)
    from unnest(v_first) s
    left join unnest(v_second) t on t.ordinal = s.ordinal
    cross join lateral (
      values (case when s.outcome = 'accepted' then 'received' when t.outcome = 'accepted' then 'sighting' else 'duplicate' end,
              p_kind[s.ordinal]),
             (case when s.outcome = 'accepted' or t.outcome = 'accepted' then 'job' end, 'queued')) c(measure, name)
    where p_organization[s.ordinal] = v_organization and c.measure is not null
    group by c.measure, c.name;
    return query
    select s.ordinal, case when s.outcome <> 'accepted' and t.outcome = 'accepted' then 'sighting' else s.outcome end,
           coalesce(t.job_id, s.job_id), coalesce(t.created_at, s.created_at), coalesce(t.job_status, s.job_status),
           case when t.ordinal is null then s.error_class else t.error_class end, coalesce(t.round, s.round),
           case when s.outcome = 'accepted' then p_event[s.ordinal] else a.id end
    from unnest(v_first) s
    left join unnest(v_second) t on t.ordinal = s.ordinal
    left join lateral (
      select x.id from athena_events x
      where s.outcome <> 'accepted' and x.organization_id = v_organization and x.idempotency_sha256 = p_fingerprint[s.ordinal]
      limit 1) a on true
    where p_organization[s.ordinal] = v_organization;
  end loop;
end $$;

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
