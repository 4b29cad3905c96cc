-- Erasure and legal holds (docs/erasure.md).

-- A payload that was erased: its row stays without content, so that the same bytes are recognized and refused.
alter table payloads
  add column purged_at timestamptz,
  -- The erasure that took its content.
  add column erasure_id uuid,
  -- Its bytes went because of their age (`retention.payloads_days`). They may be sent again.
  add column expired_at timestamptz,
  -- When a later job brought the same bytes; null: none did.
  add column last_received_at timestamptz;
alter table payloads drop constraint payloads_check;
alter table payloads add constraint payloads_content check (
  case when purged_at is null and expired_at is null then body is not null or storage_key is not null
       else body is null and storage_key is null end);

-- Which jobs brought the bytes of an event, and from where: written when they come a second time, then for the first time too. When a
-- payload is erased, what another one brought as well stays, and is shown as that one's.
create table event_carriers (
  organization_id uuid not null,
  event_id uuid not null,
  job_id uuid not null,
  job_seq bigint not null,
  payload_sha256 bytea not null check (length(payload_sha256) = 32),
  entry integer,
  byte_start bigint not null,
  byte_end bigint not null check (byte_end >= byte_start),
  -- As in clinical_events and event_subjects: whom that payload says it is about.
  subject_key text,
  statement_id uuid,
  subject_keys text[] not null,
  primary key (organization_id, event_id, job_id)
);
create index event_carriers_by_job on event_carriers (organization_id, job_id);

-- Who says a statement.
create index clinical_events_saying on clinical_events (organization_id, statement_id) where resource_type = 'Patient';

-- Who was merged into a patient: their demographics go with what said them.
create index patients_merged on patients (organization_id, merged_into) where merged_into is not null;

-- What must not be erased, and why. A hold that was lifted stays as a row.
create table legal_holds (
  organization_id uuid not null references organizations,
  id uuid not null,
  kind text not null check (kind in ('payload', 'patient', 'organization')),
  payload_sha256 bytea check (length(payload_sha256) = 32),
  patient_id uuid,
  reason text not null,
  placed_by text not null,
  placed_at timestamptz not null,
  lifted_by text,
  lifted_at timestamptz,
  primary key (organization_id, id),
  check ((kind = 'payload') = (payload_sha256 is not null)),
  check ((kind = 'patient') = (patient_id is not null)),
  check ((lifted_by is null) = (lifted_at is null))
);
create index legal_holds_active on legal_holds (organization_id, kind) where lifted_at is null;

-- An erasure from its decision to its end; it outlives what it erased.
create table erasures (
  organization_id uuid not null,
  id uuid not null,
  -- payload: one payload. patient: all that tell of a patient. retention: what is older than the configuration keeps.
  kind text not null check (kind in ('payload', 'patient', 'retention')),
  -- rows: tables are being cleared; objects: objects are being deleted; finished: nothing is left.
  status text not null check (status in ('rows', 'objects', 'finished')),
  payload_sha256 bytea check (length(payload_sha256) = 32),
  patient_id uuid,
  -- The payloads whose content goes.
  payloads bytea[] not null default '{}',
  -- The jobs whose events go.
  jobs uuid[] not null default '{}',
  -- The patient, with all who were merged into them.
  persons uuid[] not null default '{}',
  -- Rows by table, and objects.
  counts jsonb not null default '{}',
  reason text not null,
  actor text not null,
  created_at timestamptz not null,
  finished_at timestamptz,
  primary key (organization_id, id),
  check ((status = 'finished') = (finished_at is not null)),
  check ((kind = 'payload') = (payload_sha256 is not null)),
  check ((kind = 'patient') = (patient_id is not null))
);
create unique index erasures_of_payload on erasures (organization_id, payload_sha256) where payload_sha256 is not null;
create index erasures_of_patient on erasures (organization_id, patient_id, id) where patient_id is not null;
create index erasures_unfinished on erasures (organization_id, id) where status <> 'finished';

-- What an erasure still has to delete from the object store: written with its decision, taken out when the object is gone.
create table erased_objects (
  organization_id uuid not null,
  erasure_id uuid not null,
  -- Without the configured prefix of keys.
  storage_key text not null,
  -- All objects whose keys begin so.
  is_prefix boolean not null,
  primary key (organization_id, erasure_id, storage_key)
);

-- How far retention has walked through an organization's jobs, in the order of their ids, which is that of time.
create table retention_rounds (
  organization_id uuid not null primary key,
  -- The last job that was looked at in this round; null: the next round begins at the first one.
  after_job uuid,
  -- When the last whole round ended.
  ended_at timestamptz
);
-- A key goes with its job.
create index idempotency_keys_by_job on idempotency_keys (organization_id, job_id);

do $$
declare
  t text;
begin
  foreach t in array array['event_carriers', 'legal_holds', 'erasures', 'erased_objects', 'retention_rounds'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I for all to chartgate_app
         using (array_position((select tenant_organizations()), organization_id) is not null)
         with check (organization_id = any ((select tenant_organizations())::uuid[]))', t);
  end loop;
end $$;
grant select, insert, update, delete on event_carriers to chartgate_app;
grant select, insert, update on legal_holds, erasures to chartgate_app;
grant select, insert, delete on erased_objects to chartgate_app;
grant select, insert, update on retention_rounds to chartgate_app;
-- History of links is history of the events: it goes with them.
grant delete on patient_links, event_sightings, athena_events, reviews to chartgate_app;
grant update on athena_events to chartgate_app;
-- What jobs leave behind goes with them.
grant delete on job_steps, step_attempts, uploads to chartgate_app;

-- Jobs of a batch whose bytes were erased. The rows are held until the transaction ends: an erasure waits, and then sees the job.
-- In the order of hashes, and as `received_again` needs them.
create function purged_jobs(p_one uuid, p_organization uuid[], p_job uuid[], p_sha256 bytea[]) returns uuid[]
language plpgsql volatile as $$
declare
  v_hashes bytea[];
begin
  v_hashes := array(
    select h.sha256
    from (select p.sha256, p.purged_at
          from payloads p
          where p.organization_id = p_one
            and p.sha256 = any (array(select t.sha256 from unnest(p_organization, p_sha256) t(o, sha256) where t.o = p_one))
          order by p.sha256
          for no key update) h
    where h.purged_at is not null);
  return array(select t.job from unnest(p_organization, p_job, p_sha256) t(o, job, sha256) where t.o = p_one and t.sha256 = any (v_hashes));
end $$;

-- Bytes that were there before came with another job: they are younger now; and if they had gone because of their age, they are back.
create function received_again(p_one uuid, p_fresh uuid[], p_organization uuid[], p_job uuid[], p_sha256 bytea[], p_body bytea[], p_now timestamptz)
returns void
language sql volatile as $$
  update payloads p
  set last_received_at = p_now,
      body = case when p.expired_at is null then p.body else t.body end,
      expired_at = null
  from (select distinct on (u.sha256) u.sha256, u.body
        from unnest(p_organization, p_job, p_sha256, p_body) u(o, job, sha256, body)
        where u.o = p_one and u.job = any (p_fresh)
        order by u.sha256) t
  where p.organization_id = p_one
    and p.sha256 = t.sha256
    and p.purged_at is null
    -- Not those that this batch brought first.
    and p.created_at < p_now
$$;

-- submit_jobs as it is, with the outcome `purged`: nothing is recorded of bytes that were erased. It costs nothing where all payloads are new.
do $$
declare
  v_old text := pg_get_functiondef('submit_jobs'::regproc);
  v_new text := v_old;
  v_part text[];
  v_parts text[] := array[
    [$q$  v_fresh uuid[];
begin$q$,
     $q$  v_fresh uuid[];
  v_purged uuid[];
  v_inserted bigint;
begin$q$],
    [$q$    perform set_config('app.organization', array[v_organization]::text, true);
    with k as ($q$,
     $q$    perform set_config('app.organization', array[v_organization]::text, true);
    v_purged := '{}';
    with k as ($q$],
    [$q$      order by t.sha256
      on conflict do nothing;
$q$,
     $q$      order by t.sha256
      on conflict do nothing;
      get diagnostics v_inserted = row_count;
      if v_inserted < cardinality(v_fresh) then
        v_purged := purged_jobs(v_organization, p_organization, p_job, p_sha256);
      end if;
      if cardinality(v_purged) > 0 then
        delete from idempotency_keys k
        using unnest(p_organization, p_job, p_scope, p_key) t(o, job, scope, key)
        where t.o = v_organization and t.job = any (v_purged) and t.job = any (v_fresh)
          and k.organization_id = t.o and k.scope = t.scope and k.key = t.key;
        v_fresh := array(select f from unnest(v_fresh) f where f <> all (v_purged));
      end if;
      if v_inserted < cardinality(v_fresh) + cardinality(v_purged) then
        perform received_again(v_organization, v_fresh, p_organization, p_job, p_sha256, p_body, v_now);
      end if;
$q$],
    [$q$      -- A fresh statement: it sees the first job$q$,
     $q$      -- Repetitions that record nothing need no lock.
      v_purged := v_purged || array(
        select t.job from unnest(p_organization, p_job, p_sha256) t(o, job, sha256)
        where t.o = v_organization and t.job <> all (v_fresh) and t.job <> all (v_purged)
          and exists (select from payloads p where p.organization_id = t.o and p.sha256 = t.sha256 and p.purged_at is not null));
      return query
      select t.n::integer, 'purged', t.job, v_now, 'cancelled', null::text, 1
      from unnest(p_organization, p_job) with ordinality t(o, job, n)
      where t.o = v_organization and t.job = any (v_purged) and t.job <> all (v_fresh);
      -- A fresh statement: it sees the first job$q$],
    [$q$case when k.fingerprint = t.fingerprint then 'duplicate' else 'mismatch' end$q$,
     $q$case when k.fingerprint <> t.fingerprint then 'mismatch'
                                 when exists (select from payloads p where p.organization_id = t.o and p.sha256 = j.payload_sha256 and p.purged_at is not null) then 'purged'
                                 else 'duplicate' end$q$],
    [$q$select x.created_at, x.status, x.error_class, x.round from jobs x$q$,
     $q$select x.created_at, x.status, x.error_class, x.round, x.payload_sha256 from jobs x$q$],
    [$q$      where t.o = v_organization and t.job <> all (v_fresh);
    end if;$q$,
     $q$      where t.o = v_organization and t.job <> all (v_fresh) and t.job <> all (v_purged);
    end if;$q$]];
begin
  foreach v_part slice 1 in array v_parts loop
    if position(v_part[1] in v_new) = 0 then
      raise exception 'submit_jobs no longer says: %', v_part[1];
    end if;
    v_new := replace(v_new, v_part[1], v_part[2]);
  end loop;
  execute v_new;
end $$;

-- What is not taken is not counted.
do $$
declare
  v_old text := pg_get_functiondef('submit_athena_events'::regproc);
  v_new text := replace(v_old, $q$when t.outcome = 'accepted' then 'sighting' else 'duplicate' end$q$,
                        $q$when t.outcome = 'accepted' then 'sighting' when s.outcome <> 'purged' then 'duplicate' end$q$);
begin
  if v_new = v_old then
    raise exception 'submit_athena_events no longer counts duplicates';
  end if;
  execute v_new;
end $$;
