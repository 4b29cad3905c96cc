-- Bulk files: texts of chunks that no plan names, objects that cannot be deleted, versions of objects, the order of suspects,
-- and uploads that were cancelled (docs/bulk.md).

-- The texts of the chunks of a compressed file are put under an id of the attempt's own, chunks/{organization}/{job}/{plan_id}/,
-- before it is known whether its plan is adopted. A row here says that no plan names that id (yet, or any more): it is written
-- before the first text, and taken out again with the plan's adoption.
create table chunk_texts (
  organization_id uuid not null,
  plan_id uuid not null,
  job_id uuid not null,
  begun_at timestamptz not null,
  -- They were deleted. Looked for once more a day later: a worker that stood still may have put one since.
  cleared_at timestamptz,
  -- One of them could not be deleted: not again within a day.
  failed_at timestamptz,
  primary key (organization_id, plan_id)
);
alter table chunk_texts enable row level security;
alter table chunk_texts force row level security;
create policy tenant on chunk_texts for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update, delete on chunk_texts to chartgate_app;

-- Under which id the texts of a plan's chunks are; null: it is not compressed, or was planned by an earlier release.
alter table bulk_plans add column plan_id uuid;

-- Texts that may be deleted now, at most p_limit ids: those of jobs that have ended, whose attempts cannot commit any more.
create function due_texts(p_limit integer)
returns table (organization_id uuid, plan_id uuid, job_id uuid, cleared_at timestamptz)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_day_ago timestamptz := chartgate_now() - interval '1 day';
  v_left integer := p_limit;
  v_count integer;
  v_organization uuid;
begin
  for v_organization in select id from organizations order by id loop
    exit when v_left <= 0;
    perform set_config('app.organization', array[v_organization]::text, true);
    return query
      select t.organization_id, t.plan_id, t.job_id, t.cleared_at
      from chunk_texts t
      cross join lateral (
        select
        from jobs j
        where j.organization_id = v_organization and j.id = t.job_id and j.finished_at is not null
        offset 0) j
      where t.organization_id = v_organization
        and (t.cleared_at is null or t.cleared_at < v_day_ago)
        and (t.failed_at is null or t.failed_at < v_day_ago)
      limit v_left;
    get diagnostics v_count = row_count;
    v_left := v_left - v_count;
  end loop;
  perform set_config('app.organization', '', true);
end $$;

-- An object that cannot be deleted is left for a day, so that it does not stand before the others.
alter table ingested_objects add column removal_failed_at timestamptz;
grant update (removal_failed_at) on ingested_objects to chartgate_app;

-- As before, with the version, and without what could not be deleted a short while ago.
drop function removable_objects(text, double precision, integer);
create function removable_objects(p_bucket text, p_keep_seconds double precision, p_limit integer)
returns table (bucket text, storage_key text, generation text, etag text, organization_id uuid, job_id uuid, version_id text)
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v_kept timestamptz := v_now - p_keep_seconds * interval '1 second';
  v_day_ago timestamptz := v_now - interval '1 day';
  v_left integer := p_limit;
  v_count integer;
  v_organization uuid;
begin
  return query
    select o.bucket, o.storage_key, o.generation, o.etag, o.organization_id, o.job_id, o.version_id
    from ingested_objects o
    where o.removed_at is null and o.status = 'refused' and o.bucket = p_bucket and o.first_seen_at < v_kept
      and (o.removal_failed_at is null or o.removal_failed_at < v_day_ago)
    limit v_left;
  get diagnostics v_count = row_count;
  v_left := v_left - v_count;
  for v_organization in
      select distinct o.organization_id from ingested_objects o where o.removed_at is null and o.status = 'ingested' order by 1 loop
    exit when v_left <= 0;
    perform set_config('app.organization', array[v_organization]::text, true);
    return query
      select o.bucket, o.storage_key, o.generation, o.etag, o.organization_id, o.job_id, o.version_id
      from ingested_objects o
      cross join lateral (
        select j.finished_at, j.payload_sha256
        from jobs j
        where j.organization_id = v_organization and j.id = o.job_id and j.finished_at is not null
        offset 0) j
      where o.organization_id = v_organization
        and o.removed_at is null
        and o.status = 'ingested'
        and o.bucket = p_bucket
        and (o.removal_failed_at is null or o.removal_failed_at < v_day_ago)
        -- Earlier, the write-once URL would admit a second PUT.
        and not exists (
          select from uploads u
          where u.organization_id = v_organization and u.id = o.upload_id and u.expires_at > v_now)
        and (j.finished_at < v_kept or exists (
          select from payloads p
          where p.organization_id = v_organization and p.sha256 = j.payload_sha256 and p.stored_at is not null))
      limit v_left;
    get diagnostics v_count = row_count;
    v_left := v_left - v_count;
  end loop;
  perform set_config('app.organization', '', true);
end $$;

-- As before, but chunks behind jobs, and the one with the fewest deaths first: a chunk has twelve lives, so that one that is
-- deadly would keep all others waiting for ten more runs. A job that died twice is still the first of all: it ends or is
-- parked with this run, while a stream of once dead ones could keep it waiting.
create or replace function claim_suspects(p_slots integer, p_chunk_slots integer, p_lease_seconds double precision, p_worker uuid)
returns table (
  organization_id uuid, seq bigint, chunk integer, job_id uuid, workflow text, workflow_version integer, round integer,
  step smallint, attempts smallint, deaths smallint, lease_epoch bigint, lane bigint, age_ms bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v_rows tid[];
begin
  -- A job that died twice, alone.
  v_rows := array(
    select s.ctid from queue s
    join organizations g on g.id = s.organization_id and g.status = 'active'
    where s.state = 'suspect' and s.chunk = 0 and s.deaths > 1
    order by s.organization_id, s.seq
    limit 1
    for update of s skip locked);
  -- Jobs that died once, together; no chunk among them, which may be the deadly one of many lives.
  if cardinality(v_rows) = 0 then
    v_rows := array(
      select s.ctid from queue s
      join organizations g on g.id = s.organization_id and g.status = 'active'
      where s.state = 'suspect' and s.chunk = 0
      order by s.organization_id, s.seq
      limit p_slots
      for update of s skip locked);
  end if;
  -- Chunks that died once, together, as many as have slots, because those bound the memory.
  if cardinality(v_rows) = 0 then
    v_rows := array(
      select s.ctid from queue s
      join organizations g on g.id = s.organization_id and g.status = 'active'
      where s.state = 'suspect' and s.chunk > 0 and s.deaths = 1
      order by s.organization_id, s.seq, s.chunk
      limit p_chunk_slots
      for update of s skip locked);
  end if;
  -- From its second death on a chunk runs alone.
  if cardinality(v_rows) = 0 then
    v_rows := array(
      select s.ctid from queue s
      join organizations g on g.id = s.organization_id and g.status = 'active'
      where s.state = 'suspect' and s.chunk > 0 and p_chunk_slots > 0
      order by s.deaths, s.organization_id, s.seq, s.chunk
      limit 1
      for update of s skip locked);
  end if;
  return query
  update queue q
  set state = 'leased', attempts = q.attempts + 1, lease_epoch = nextval('lease_epochs'),
      lease_until = v_now + p_lease_seconds * interval '1 second', claimed_at = v_now, worker_id = p_worker
  where q.ctid = any (v_rows) and q.state = 'suspect'
  returning q.organization_id, q.seq, q.chunk, q.job_id, q.workflow, q.workflow_version, q.round, q.step, q.attempts, q.deaths,
            q.lease_epoch, q.lane, (extract(epoch from v_now - q.enqueued_at) * 1000)::bigint;
end $$;

-- An upload whose job is cancelled waits for nothing any more, and counts no longer among those that wait. Skipped while the
-- watcher has its row: the watcher looks at the job's status itself, and the sweeper closes it in the end.
create function close_cancelled_upload() returns trigger
language plpgsql as $$
begin
  update uploads u
  set closed_at = chartgate_now()
  where u.ctid = any (array(
    select w.ctid from uploads w
    where w.organization_id = new.organization_id and w.job_id = new.id and w.arrived_at is null and w.closed_at is null
    for update skip locked));
  return null;
end $$;
create trigger close_cancelled_upload after update of status on jobs
for each row when (old.status = 'awaiting_upload' and new.status = 'cancelled') execute function close_cancelled_upload();
