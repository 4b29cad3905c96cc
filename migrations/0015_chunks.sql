-- Fan-out over chunks: what a job is cut into, and what became of each piece in each step (docs/bulk.md#chunks).

-- The plan. One row a piece, written before the fan-out; what became of it stands in chunk_steps.
alter table chunks
  drop column status,
  drop column output,
  drop column error_code,
  drop column finished_at,
  -- Lines that are not blank, or entries.
  add column lines bigint not null default 0,
  -- Lines (entries) that the validation left out: the steps behind it pass over them.
  add column rejected bigint[] not null default '{}';
grant delete on chunks to chartgate_app;

-- A piece's way through the steps with `each = "chunk"`: one row a piece and step that ended, of whatever round; chunk 0 is
-- the fan-out itself (its output is that of `open`), which is there while the step is fanned out or joined.
create table chunk_steps (
  organization_id uuid not null,
  job_id uuid not null,
  step smallint not null,
  chunk integer not null,
  round integer not null,
  status text not null,
  attempts smallint not null,
  started_at timestamptz,
  finished_at timestamptz not null,
  output jsonb,
  error_code text,
  error_class text,
  error_message text,
  worker_id uuid,
  primary key (organization_id, job_id, step, chunk),
  constraint chunk_steps_states check (
    status in ('succeeded', 'failed')
    and (status = 'failed') = (error_code is not null)
    and (error_class is null or error_class in ('transient', 'sender', 'ours'))
    and step between 0 and 99
    and chunk >= 0)
);
alter table chunk_steps enable row level security;
alter table chunk_steps force row level security;
create policy tenant on chunk_steps for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
create policy platform_reads on chunk_steps for select to chartgate_platform using (true);
grant select, insert, update, delete on chunk_steps to chartgate_app;
grant select on chunk_steps to chartgate_platform;

alter table step_attempts add column chunk integer not null default 0;

-- The job's own row waits while its chunks are worked on. Two indexes of what is ready: chunks are claimed into slots of
-- their own, and a claim of the one does not read past the other.
alter table queue drop constraint queue_states;
alter table queue add constraint queue_states check (
  state in ('ready', 'suspect', 'blocked', 'delayed', 'leased', 'waiting')
  and (state = 'leased') = (lease_epoch is not null)
  and (state = 'leased') = (lease_until is not null)
  and (state = 'delayed') = (run_at is not null)
  and (state = 'waiting') <= (chunk = 0));
drop index queue_ready;
create index queue_ready on queue (organization_id, priority, seq) where state = 'ready' and chunk = 0;
create index queue_ready_chunks on queue (organization_id, priority, seq, chunk) where state = 'ready' and chunk > 0;
create index queue_waiting on queue (organization_id, seq) where state = 'waiting';

-- As before, for jobs only.
create or replace function claim_tasks(p_slots integer, p_cursor uuid, p_lease_seconds double precision, p_worker uuid)
returns table (
  organization_id uuid, seq bigint, chunk integer, job_id uuid, workflow text, workflow_version integer, round integer,
  step smallint, attempts smallint, deaths smallint, lease_epoch bigint, lane bigint, age_ms bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
begin
  -- Backoff that is over: back among the ready.
  update queue q
  set state = case when q.deaths > 0 then 'suspect' else 'ready' end, run_at = null
  where q.ctid = any (array(
      select d.ctid from queue d where d.state = 'delayed' and d.run_at <= v_now order by d.run_at limit 500 for update skip locked))
    and q.state = 'delayed';

  -- While any organization has a cap, claims take turns: two at once would each count without the other's leases.
  if exists (select from organizations where running_max is not null) then
    perform pg_advisory_xact_lock(hashtextextended('chartgate.claim', 0));
  end if;

  return query
  with recursive after_cursor as (
    (select organization_id o from queue where state = 'ready' and chunk = 0 and organization_id > p_cursor order by organization_id limit 1)
    union all
    select (select n.organization_id from queue n where n.state = 'ready' and n.chunk = 0 and n.organization_id > a.o order by n.organization_id limit 1)
    from after_cursor a where a.o is not null
  ), from_start as (
    (select organization_id o from queue where state = 'ready' and chunk = 0 order by organization_id limit 1)
    union all
    select (select n.organization_id from queue n where n.state = 'ready' and n.chunk = 0 and n.organization_id > b.o order by n.organization_id limit 1)
    from from_start b where b.o < p_cursor
  ), organizations_with_work as materialized (
    select v.o, v.running_max, row_number() over () r
    from (
      select u.o, g.running_max
      from (select o from after_cursor where o is not null union all select o from from_start where o <= p_cursor) u
      join organizations g on g.id = u.o and g.status = 'active'
      limit p_slots
    ) v
  ), candidates as materialized (
    select c.organization_id, c.seq, c.chunk, w.r, row_number() over (partition by w.o order by c.priority, c.seq, c.chunk) n
    from organizations_with_work w
    cross join lateral (
      select q.organization_id, q.seq, q.chunk, q.priority
      from queue q
      where q.organization_id = w.o and q.state = 'ready' and q.chunk = 0
      order by q.organization_id, q.priority, q.seq
      limit least(
        (select (p_slots + count(*) - 1) / greatest(count(*), 1) from organizations_with_work),
        -- Only organizations with a cap pay for counting their leases.
        case when w.running_max is null then p_slots::bigint
             else greatest(0, w.running_max - (select count(*) from queue l where l.organization_id = w.o and l.state = 'leased')) end)
      for update skip locked) c
  ), picked as materialized (
    select organization_id, seq, chunk, r, n from candidates order by n, r limit p_slots
  ), claimed as (
    update queue q
    set state = 'leased', attempts = q.attempts + 1, lease_epoch = nextval('lease_epochs'),
        lease_until = v_now + p_lease_seconds * interval '1 second', claimed_at = v_now, worker_id = p_worker
    from picked p
    where q.organization_id = p.organization_id and q.seq = p.seq and q.chunk = p.chunk
    returning q.*, p.n, p.r
  )
  select c.organization_id, c.seq, c.chunk, c.job_id, c.workflow, c.workflow_version, c.round, c.step, c.attempts, c.deaths,
         c.lease_epoch, c.lane, (extract(epoch from v_now - c.enqueued_at) * 1000)::bigint
  from claimed c
  order by c.n, c.r;
end $$;

-- The same for chunks, in the order of the file.
create function claim_chunks(p_slots integer, p_cursor uuid, p_lease_seconds double precision, p_worker uuid)
returns table (
  organization_id uuid, seq bigint, chunk integer, job_id uuid, workflow text, workflow_version integer, round integer,
  step smallint, attempts smallint, deaths smallint, lease_epoch bigint, lane bigint, age_ms bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
begin
  -- While any organization has a cap, claims take turns: two at once would each count without the other's leases.
  if exists (select from organizations where running_max is not null) then
    perform pg_advisory_xact_lock(hashtextextended('chartgate.claim', 0));
  end if;

  return query
  with recursive after_cursor as (
    (select organization_id o from queue where state = 'ready' and chunk > 0 and organization_id > p_cursor order by organization_id limit 1)
    union all
    select (select n.organization_id from queue n where n.state = 'ready' and n.chunk > 0 and n.organization_id > a.o order by n.organization_id limit 1)
    from after_cursor a where a.o is not null
  ), from_start as (
    (select organization_id o from queue where state = 'ready' and chunk > 0 order by organization_id limit 1)
    union all
    select (select n.organization_id from queue n where n.state = 'ready' and n.chunk > 0 and n.organization_id > b.o order by n.organization_id limit 1)
    from from_start b where b.o < p_cursor
  ), organizations_with_work as materialized (
    select v.o, v.running_max, row_number() over () r
    from (
      select u.o, g.running_max
      from (select o from after_cursor where o is not null union all select o from from_start where o <= p_cursor) u
      join organizations g on g.id = u.o and g.status = 'active'
      limit p_slots
    ) v
  ), candidates as materialized (
    select c.organization_id, c.seq, c.chunk, w.r, row_number() over (partition by w.o order by c.priority, c.seq, c.chunk) n
    from organizations_with_work w
    cross join lateral (
      select q.organization_id, q.seq, q.chunk, q.priority
      from queue q
      where q.organization_id = w.o and q.state = 'ready' and q.chunk > 0
      order by q.organization_id, q.priority, q.seq, q.chunk
      limit least(
        (select (p_slots + count(*) - 1) / greatest(count(*), 1) from organizations_with_work),
        -- Only organizations with a cap pay for counting their leases.
        case when w.running_max is null then p_slots::bigint
             else greatest(0, w.running_max - (select count(*) from queue l where l.organization_id = w.o and l.state = 'leased')) end)
      for update skip locked) c
  ), picked as materialized (
    select organization_id, seq, chunk, r, n from candidates order by n, r limit p_slots
  ), claimed as (
    update queue q
    set state = 'leased', attempts = q.attempts + 1, lease_epoch = nextval('lease_epochs'),
        lease_until = v_now + p_lease_seconds * interval '1 second', claimed_at = v_now, worker_id = p_worker
    from picked p
    where q.organization_id = p.organization_id and q.seq = p.seq and q.chunk = p.chunk
    returning q.*, p.n, p.r
  )
  select c.organization_id, c.seq, c.chunk, c.job_id, c.workflow, c.workflow_version, c.round, c.step, c.attempts, c.deaths,
         c.lease_epoch, c.lane, (extract(epoch from v_now - c.enqueued_at) * 1000)::bigint
  from claimed c
  order by c.n, c.r;
end $$;

-- As before; chunks no more than their slots, because they bound the memory.
drop function claim_suspects(integer, double precision, uuid);
create function claim_suspects(p_slots integer, p_chunk_slots integer, p_lease_seconds double precision, p_worker uuid)
returns table (
  organization_id uuid, seq bigint, chunk integer, job_id uuid, workflow text, workflow_version integer, round integer,
  step smallint, attempts smallint, deaths smallint, lease_epoch bigint, lane bigint, age_ms bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v_rows tid[];
begin
  -- Twice dead first: it ends or is parked with this run, so that it cannot keep the others waiting, while a stream of
  -- once dead ones could keep it waiting.
  v_rows := array(
    select s.ctid from queue s
    join organizations g on g.id = s.organization_id and g.status = 'active'
    where s.state = 'suspect' and s.deaths > 1
    order by s.organization_id, s.seq
    limit 1
    for update of s skip locked);
  if cardinality(v_rows) = 0 then
    v_rows := array(
      select s.ctid from queue s
      join organizations g on g.id = s.organization_id and g.status = 'active'
      where s.state = 'suspect' and s.deaths = 1 and s.chunk = 0
      order by s.organization_id, s.seq
      limit p_slots
      for update of s skip locked);
    v_rows := v_rows || array(
      select s.ctid from queue s
      join organizations g on g.id = s.organization_id and g.status = 'active'
      where s.state = 'suspect' and s.deaths = 1 and s.chunk > 0
      order by s.organization_id, s.seq, s.chunk
      limit p_chunk_slots
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

-- The fan-out of the step at which a job stands: the job's row waits, and each chunk that has not ended the region gets a
-- row of its own, at the step that it has not ended. The caller holds the fence (the job's row, leased to it) and wrote the
-- chunks. Answers how many chunks there are to do; with none the job's row stays leased, and its join follows at once.
create function fan_out(
  p_organization uuid, p_seq bigint, p_step smallint, p_last smallint, p_name text, p_attempts smallint, p_elapsed_us bigint,
  p_output jsonb, p_worker uuid, p_version text)
returns bigint
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
  v_count bigint;
begin
  select * into v from queue q where q.organization_id = p_organization and q.seq = p_seq and q.chunk = 0;
  insert into chunk_steps (organization_id, job_id, step, chunk, round, status, attempts, started_at, finished_at, output, worker_id)
  values (p_organization, v.job_id, p_step, 0, v.round, 'succeeded', p_attempts,
          v_now - p_elapsed_us * interval '1 microsecond', v_now, p_output, p_worker);
  insert into queue (organization_id, seq, chunk, job_id, workflow, workflow_version, round, state, priority, step, enqueued_at)
  select p_organization, p_seq, c.chunk, v.job_id, v.workflow, v.workflow_version, v.round, 'ready', v.priority,
         coalesce(d.step + 1, p_step), v.enqueued_at
  from chunks c
  cross join lateral (
    select max(s.step) step
    from chunk_steps s
    where s.organization_id = p_organization and s.job_id = v.job_id and s.step between p_step and p_last and s.chunk = c.chunk
      and s.status = 'succeeded') d
  where c.organization_id = p_organization and c.job_id = v.job_id and d.step is distinct from p_last
  order by c.chunk;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    update queue q
    set state = 'waiting', attempts = 0, held_since = null, lease_epoch = null, lease_until = null, worker_id = null
    where q.organization_id = p_organization and q.seq = p_seq and q.chunk = 0;
  end if;
  insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, step, program_version, detail)
  values (p_organization, v_now, 'step.fanned_out', 'E', 'worker:' || p_worker, 'internal', v.job_id, p_name, p_version,
          jsonb_build_object('chunks', v_count));
  return v_count;
end $$;

-- If no chunk of a waiting job is left in the queue, the job goes on. Under the lock of the job's row: two chunks that end
-- at once see each other here. Chunk before job, everywhere.
create function join_chunks(p_organization uuid, p_seq bigint) returns boolean
language plpgsql volatile as $$
begin
  perform from queue q
  where q.organization_id = p_organization and q.seq = p_seq and q.chunk = 0 and q.state = 'waiting'
  for update;
  if not found or exists (select from queue q where q.organization_id = p_organization and q.seq = p_seq and q.chunk > 0) then
    return false;
  end if;
  update queue q
  set state = case when q.deaths > 0 then 'suspect' else 'ready' end
  where q.organization_id = p_organization and q.seq = p_seq and q.chunk = 0;
  return true;
end $$;

-- A chunk finished a step. The caller holds the fence and wrote the step's rows. p_next null: it has ended the region.
-- Answers whether its job goes on now.
create function commit_chunk(
  p_organization uuid, p_seq bigint, p_chunk integer, p_step smallint, p_next smallint, p_name text, p_attempts smallint,
  p_elapsed_us bigint, p_output jsonb, p_worker uuid, p_version text)
returns boolean
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
begin
  update queue q set step = coalesce(p_next, q.step), attempts = 1, held_since = null
  where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk
  returning * into v;
  insert into chunk_steps (organization_id, job_id, step, chunk, round, status, attempts, started_at, finished_at, output, worker_id)
  values (p_organization, v.job_id, p_step, p_chunk, v.round, 'succeeded', p_attempts,
          v_now - p_elapsed_us * interval '1 microsecond', v_now, p_output, p_worker);
  insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, step, program_version, detail)
  values (p_organization, v_now, 'chunk.succeeded', 'E', 'worker:' || p_worker, 'internal', v.job_id, p_name, p_version,
          jsonb_build_object('chunk', p_chunk));
  if p_next is not null then
    return false;
  end if;
  delete from queue q where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk;
  return join_chunks(p_organization, p_seq);
end $$;

-- A chunk failed for good: the others go on. p_name null: its workers died.
create function end_chunk(
  p_organization uuid, v queue, p_name text, p_attempts smallint, p_started timestamptz, p_code text, p_class text, p_message text,
  p_worker uuid, p_version text)
returns void
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
begin
  insert into chunk_steps (organization_id, job_id, step, chunk, round, status, attempts, started_at, finished_at,
                           error_code, error_class, error_message, worker_id)
  values (p_organization, v.job_id, v.step, v.chunk, v.round, 'failed', p_attempts, p_started, v_now,
          p_code, p_class, p_message, p_worker);
  insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, step, program_version, detail)
  values (p_organization, v_now, 'chunk.failed', 'E', 'failure',
          case when p_name is null then 'sweeper' else 'worker:' || p_worker end, 'internal', v.job_id, p_name, p_version,
          jsonb_build_object('code', p_code, 'class', p_class, 'attempt', p_attempts, 'chunk', v.chunk));
  delete from queue q where q.organization_id = p_organization and q.seq = v.seq and q.chunk = v.chunk;
  perform join_chunks(p_organization, v.seq);
end $$;

-- As before; a chunk's failure for good is the chunk's.
create or replace function fail_step(
  p_organization uuid, p_seq bigint, p_chunk integer, p_epoch bigint, p_step smallint, p_name text, p_attempts smallint,
  p_elapsed_us bigint, p_code text, p_class text, p_message text, p_delay_ms bigint, p_next smallint,
  p_skipped_steps smallint[], p_skipped_names text[], p_lane bigint, p_worker uuid, p_version text)
returns boolean
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v_started timestamptz := v_now - p_elapsed_us * interval '1 microsecond';
  v_run_at timestamptz := v_now + p_delay_ms * interval '1 millisecond';
  v queue%rowtype;
begin
  perform set_config('app.organization', array[p_organization]::text, true);
  if p_delay_ms is null and p_next is null and p_lane is not null then
    perform pg_advisory_xact_lock(p_lane);
  end if;
  select * into v from queue q
  where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk and q.lease_epoch = p_epoch and q.step = p_step
  for update;
  if not found then
    return false;
  end if;

  insert into step_attempts (organization_id, job_id, round, step, chunk, lease_epoch, attempt, outcome, error_code, error_class,
                             error_message, started_at, finished_at, next_attempt_at, worker_id)
  values (p_organization, v.job_id, v.round, p_step, p_chunk, p_epoch, p_attempts, 'failed', p_code, p_class,
          p_message, v_started, v_now, v_run_at, p_worker);

  if p_delay_ms is not null then
    update queue q
    set state = 'delayed', run_at = v_run_at, held_since = coalesce(q.held_since, v_now),
        lease_epoch = null, lease_until = null, worker_id = null
    where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk;
    insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, step, program_version, detail)
    values (p_organization, v_now, 'step.retrying', 'E', 'failure', 'worker:' || p_worker, 'internal', v.job_id, p_name, p_version,
            jsonb_strip_nulls(jsonb_build_object('code', p_code, 'class', p_class, 'attempt', p_attempts, 'chunk', nullif(p_chunk, 0))));
    return true;
  end if;

  if p_chunk > 0 then
    perform end_chunk(p_organization, v, p_name, p_attempts, v_started, p_code, p_class, p_message, p_worker, p_version);
    return true;
  end if;

  insert into job_steps (organization_id, job_id, round, step, name, status, attempts, started_at, finished_at,
                         error_code, error_class, error_message, worker_id)
  values (p_organization, v.job_id, v.round, p_step, p_name, 'failed', p_attempts, v_started, v_now, p_code, p_class, p_message, p_worker);
  insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at)
  select p_organization, v.job_id, v.round, s.step, s.name, 'skipped', 0, v_now
  from unnest(p_skipped_steps, p_skipped_names) s(step, name);
  -- The first error is the job's error.
  update jobs j
  set error_step = coalesce(j.error_step, p_step),
      error_code = coalesce(j.error_code, p_code),
      error_class = coalesce(j.error_class, p_class),
      error_message = coalesce(j.error_message, p_message),
      updated_at = v_now,
      status = case when p_next is null then 'failed' else j.status end,
      finished_at = case when p_next is null then v_now end
  where j.organization_id = p_organization and j.id = v.job_id;
  insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, step, program_version, detail)
  values (p_organization, v_now, 'step.failed', 'E', 'failure', 'worker:' || p_worker, 'internal', v.job_id, p_name, p_version,
          jsonb_build_object('code', p_code, 'class', p_class, 'attempt', p_attempts));

  if p_next is not null then
    update queue q set step = p_next, attempts = 1, held_since = null
    where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk;
  else
    delete from queue q where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk;
    perform promote_lane(p_organization, p_lane);
    insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, program_version, detail)
    values (p_organization, v_now, 'job.failed', 'E', 'failure', 'worker:' || p_worker, 'internal', v.job_id, p_version,
            jsonb_build_object('code', p_code, 'class', p_class));
  end if;
  return true;
end $$;

create or replace function release_tasks(p_organization uuid[], p_seq bigint[], p_chunk integer[], p_epoch bigint[], p_begun boolean)
returns bigint
language plpgsql volatile as $$
declare
  v_count bigint;
begin
  perform set_config('app.organization', p_organization::text, true);
  if p_begun then
    insert into step_attempts (organization_id, job_id, round, step, chunk, lease_epoch, attempt, outcome, started_at, finished_at, worker_id)
    select q.organization_id, q.job_id, q.round, q.step, q.chunk, q.lease_epoch, q.attempts, 'released', q.claimed_at, chartgate_now(), q.worker_id
    from unnest(p_organization, p_seq, p_chunk, p_epoch) t(o, seq, chunk, epoch)
    join queue q on q.organization_id = t.o and q.seq = t.seq and q.chunk = t.chunk and q.lease_epoch = t.epoch;
  end if;
  update queue q
  set state = case when q.deaths > 0 then 'suspect' else 'ready' end, attempts = greatest(q.attempts - 1, 0),
      lease_epoch = null, lease_until = null, worker_id = null
  from unnest(p_organization, p_seq, p_chunk, p_epoch) t(o, seq, chunk, epoch)
  where q.organization_id = t.o and q.seq = t.seq and q.chunk = t.chunk and q.lease_epoch = t.epoch;
  get diagnostics v_count = row_count;
  return v_count;
end $$;

-- As before; a chunk that killed its workers fails, and its job goes on with the others.
drop function reap_leases(double precision, integer, uuid, text);
create function reap_leases(p_lease_seconds double precision, p_deaths_max integer, p_worker uuid, p_version text)
returns table (organization_id uuid, job_id uuid, seq bigint, chunk integer, workflow text, workflow_version integer, round integer, step smallint,
               deaths smallint, parked boolean)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
begin
  if clock_timestamp() < pg_postmaster_start_time() + p_lease_seconds * interval '1 second' then
    return;
  end if;
  for v in
    select * from queue q where q.state = 'leased' and q.lease_until < v_now limit 200
  loop
    perform set_config('app.organization', array[v.organization_id]::text, true);
    if v.deaths + 1 >= p_deaths_max and v.lane is not null then
      -- Lane before row, as everywhere; give way if somebody works on the lane, the next round comes.
      continue when not pg_try_advisory_xact_lock(v.lane);
    end if;
    perform from queue q
    where q.organization_id = v.organization_id and q.seq = v.seq and q.chunk = v.chunk and q.lease_epoch = v.lease_epoch and q.lease_until < v_now
    for update skip locked;
    continue when not found;

    insert into step_attempts (organization_id, job_id, round, step, chunk, lease_epoch, attempt, outcome, error_code, error_class,
                               error_message, started_at, finished_at, worker_id)
    values (v.organization_id, v.job_id, v.round, v.step, v.chunk, v.lease_epoch, v.attempts, 'lost', 'lease_lost', 'transient',
            'The worker stopped renewing its lease.', v.claimed_at, v_now, v.worker_id);
    if v.deaths + 1 >= p_deaths_max and v.chunk > 0 then
      perform end_chunk(v.organization_id, v, null, v.attempts, v.claimed_at, 'worker_killed', 'ours',
                        'Its worker died ' || (v.deaths + 1) || ' times while running this chunk.', v.worker_id, p_version);
    elsif v.deaths + 1 >= p_deaths_max then
      delete from queue q where q.organization_id = v.organization_id and q.seq = v.seq and q.chunk = v.chunk;
      update jobs j
      set status = 'failed', finished_at = v_now, updated_at = v_now,
          error_step = coalesce(j.error_step, v.step), error_code = coalesce(j.error_code, 'worker_killed'),
          error_class = coalesce(j.error_class, 'ours'),
          error_message = coalesce(j.error_message, 'Its worker died ' || (v.deaths + 1) || ' times while running this step.')
      where j.organization_id = v.organization_id and j.id = v.job_id;
      perform promote_lane(v.organization_id, v.lane);
    else
      update queue q
      set state = 'suspect', attempts = greatest(q.attempts - 1, 0), deaths = q.deaths + 1,
          lease_epoch = null, lease_until = null, worker_id = null
      where q.organization_id = v.organization_id and q.seq = v.seq and q.chunk = v.chunk;
    end if;
    insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, program_version, detail)
    values (v.organization_id, v_now, case when v.deaths + 1 >= p_deaths_max and v.chunk = 0 then 'job.parked' else 'lease.lost' end, 'E', 'failure',
            'sweeper:' || p_worker, 'internal', v.job_id, p_version, jsonb_strip_nulls(jsonb_build_object('step', v.step, 'deaths', v.deaths + 1, 'chunk', nullif(v.chunk, 0))));
    organization_id := v.organization_id; job_id := v.job_id; seq := v.seq; chunk := v.chunk; step := v.step;
    workflow := v.workflow; workflow_version := v.workflow_version; round := v.round;
    deaths := v.deaths + 1; parked := v.deaths + 1 >= p_deaths_max;
    return next;
  end loop;
end $$;

-- As before, with its chunks. Chunks that committed stay.
create or replace function cancel_job(p_organization uuid, p_job uuid, p_actor text, p_authentication text, p_address text,
                           p_request_id text, p_reason text, p_program text)
returns text
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v_lane bigint;
  v_seq bigint;
  v jobs%rowtype;
begin
  select lane, seq into v_lane, v_seq from jobs where organization_id = p_organization and id = p_job;
  if not found then
    return 'unknown';
  end if;
  if v_lane is not null then
    perform pg_advisory_xact_lock(v_lane);
  end if;
  -- Queue rows before the job row, as a step's commit does; chunks before the job's own, as a chunk's commit does.
  perform from queue where organization_id = p_organization and seq = v_seq order by chunk desc for update;
  select * into v from jobs where organization_id = p_organization and id = p_job for update;
  if v.status not in ('queued', 'awaiting_upload') then
    return 'terminal';
  end if;
  with gone as (
    delete from queue where organization_id = p_organization and seq = v_seq returning *
  )
  insert into step_attempts (organization_id, job_id, round, step, chunk, lease_epoch, attempt, outcome, started_at, finished_at, worker_id)
  select p_organization, p_job, round, step, chunk, lease_epoch, attempts, 'cancelled', claimed_at, v_now, worker_id
  from gone
  where state = 'leased';
  update jobs set status = 'cancelled', finished_at = v_now, updated_at = v_now
  where organization_id = p_organization and id = p_job;
  perform promote_lane(p_organization, v_lane);
  insert into audit_records (organization_id, at, event, action, actor, authentication, address, purpose, job_id, request_id, program_version)
  values (p_organization, v_now, 'job.cancelled', 'U', p_actor, p_authentication, p_address, p_reason, p_job, p_request_id, p_program);
  return 'cancelled';
end $$;

-- As before; p_step is the first of its region. p_chunks: 'failed' runs only chunks that did not succeed, 'rejected' also those
-- with lines that were left out, 'all' all of them, from step p_from on.
drop function retry_job(uuid, uuid, integer, smallint, integer, text, text, text, text, text, text);
create function retry_job(p_organization uuid, p_job uuid, p_round integer, p_step smallint, p_version integer, p_chunks text, p_from smallint, p_actor text,
                          p_authentication text, p_address text, p_request_id text, p_reason text, p_program text)
returns text
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v_lane bigint;
  v jobs%rowtype;
begin
  select lane into v_lane from jobs where organization_id = p_organization and id = p_job;
  if not found then
    return 'unknown';
  end if;
  if v_lane is not null then
    perform pg_advisory_xact_lock(v_lane);
  end if;
  select * into v from jobs where organization_id = p_organization and id = p_job for update;
  if v.round <> p_round or v.status in ('queued', 'awaiting_upload', 'expired') then
    return 'not_terminal';
  end if;
  if v.source = 'upload' and exists (
      select from uploads u where u.organization_id = p_organization and u.job_id = p_job and u.arrived_at is null) then
    return 'not_terminal';
  end if;
  -- A step that failed as a whole, though none of its chunks did, is made anew.
  if p_chunks = 'failed' and v.status = 'failed' and not exists (
      select from chunk_steps c
      where c.organization_id = p_organization and c.job_id = p_job and c.status = 'failed') then
    p_chunks := 'all';
  end if;
  -- What chunks did in the steps that run again: kept where it succeeded, forgotten where lines were left out, or forgotten.
  delete from chunk_steps c
  where c.organization_id = p_organization and c.job_id = p_job and c.step >= p_step
    and (c.chunk = 0
      or c.status = 'failed'
      or (p_chunks = 'all' and c.step >= p_from)
      or (p_chunks = 'rejected' and exists (
        select from chunks k
        where k.organization_id = p_organization and k.job_id = p_job and k.chunk = c.chunk and k.rejected <> '{}')));
  update jobs
  set status = 'queued', round = v.round + 1, round_first_step = p_step, workflow_version = p_version, result = null,
      error_step = null, error_code = null, error_class = null, error_message = null, finished_at = null, updated_at = v_now
  where organization_id = p_organization and id = p_job;
  -- At its original seq: order in the lane is the order of acceptance.
  perform enqueue_job(p_organization, p_job, v.seq, v.lane, v.priority, v.workflow, p_version, v.round + 1, p_step, v_now);
  insert into audit_records (organization_id, at, event, action, actor, authentication, address, purpose, job_id, request_id, program_version, detail)
  values (p_organization, v_now, 'job.retried', 'U', p_actor, p_authentication, p_address, p_reason, p_job, p_request_id, p_program,
          jsonb_build_object('round', v.round + 1, 'step', p_step, 'version', p_version));
  return 'retried';
end $$;
