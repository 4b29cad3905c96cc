-- A commit renews the lease of the row that it moves: while its transaction holds the row's lock, the renewal passes it over,
-- so that behind a transaction longer than a lease the row stood with a lease that had run out, and was taken back from a worker
-- that was alive. The new parameter has a default, for processes of the release before.

create or replace function commit_steps(
  p_organization uuid[], p_seq bigint[], p_chunk integer[], p_epoch bigint[], p_step smallint[], p_attempts smallint[],
  p_elapsed_us bigint[], p_next smallint[], p_name text[], p_output jsonb[], p_status text[], p_result jsonb[],
  p_hand_off boolean[], p_lanes bigint[], p_worker uuid, p_lease_seconds double precision, p_version text)
returns table (
  is_next boolean, organization_id uuid, seq bigint, chunk integer, job_id uuid, workflow text, workflow_version integer,
  round integer, step smallint, attempts smallint, deaths smallint, lease_epoch bigint, lane bigint, age_ms bigint, head bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
begin
  perform set_config('app.organization', p_organization::text, true);
  if cardinality(p_lanes) > 0 then
    perform lock_lanes(p_lanes);
  end if;
  return query
  with i as materialized (
    select *
    from unnest(p_organization, p_seq, p_chunk, p_epoch, p_step, p_attempts, p_elapsed_us, p_next, p_name, p_output, p_status, p_result, p_hand_off)
      as t(o, seq, chunk, epoch, step, attempts, elapsed_us, next, name, output, status, result, hand_off)
  ), moved as (
    update queue q
    set step = i.next, attempts = 1, held_since = null,
        lease_until = greatest(q.lease_until, v_now + p_lease_seconds * interval '1 second')
    from i
    where i.next is not null
      and q.organization_id = i.o and q.seq = i.seq and q.chunk = i.chunk
      -- The fence. Not on state: a partial index on it would be read instead of the key.
      and q.lease_epoch = i.epoch and q.step = i.step
    returning q.organization_id o, q.seq, q.chunk, q.job_id, q.round, i.step, i.attempts, i.elapsed_us, i.name, i.output
  ), gone as (
    delete from queue q
    using i
    where i.next is null
      and q.organization_id = i.o and q.seq = i.seq and q.chunk = i.chunk
      and q.lease_epoch = i.epoch and q.step = i.step
    returning q.organization_id o, q.seq, q.chunk, q.job_id, q.round, i.step, i.attempts, i.elapsed_us, i.name, i.output,
              q.lane, i.status, i.result, i.hand_off
  ), passed as materialized (
    select o, seq, chunk, job_id, round, step, attempts, elapsed_us, name, output, null::text status from moved
    union all
    select o, seq, chunk, job_id, round, step, attempts, elapsed_us, name, output, status from gone
  ), steps as (
    insert into job_steps (organization_id, job_id, round, step, name, status, attempts, started_at, finished_at, output, worker_id)
    select o, job_id, round, step, name, 'succeeded', attempts, v_now - elapsed_us * interval '1 microsecond', v_now, output, p_worker
    from passed
  ), records as (
    insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, step, program_version)
    select o, v_now, 'step.succeeded', 'E', 'worker:' || p_worker, 'internal', job_id, name, p_version
    from passed
  ), closed as (
    update jobs j
    set status = case when j.error_code is not null then 'failed' else g.status end,
        result = g.result, updated_at = v_now, finished_at = v_now
    from gone g
    where j.organization_id = g.o and j.id = g.job_id
  ), successors as materialized (
    select g.o, g.seq head, g.hand_off and exists (select from organizations a where a.id = g.o and a.status = 'active' and a.running_max is null) hand_off,
      (select b.seq from queue b where b.organization_id = g.o and b.lane = g.lane and b.state = 'blocked' order by b.seq limit 1) seq
    from gone g
    where g.lane is not null
  ), released as (
    update queue q
    set state = case when s.hand_off then 'leased' else 'ready' end,
        attempts = q.attempts + s.hand_off::int,
        lease_epoch = case when s.hand_off then nextval('lease_epochs') end,
        lease_until = case when s.hand_off then v_now + p_lease_seconds * interval '1 second' end,
        claimed_at = case when s.hand_off then v_now end,
        worker_id = case when s.hand_off then p_worker end
    from successors s
    -- By key only: with `state = 'blocked'` the partial index would be read, and with it all that waits.
    where q.organization_id = s.o and q.seq = s.seq and q.chunk = 0
    returning q.*, s.head
  )
  select false, o, seq, chunk, job_id, null::text, null::int, round, step, attempts, 0::smallint, 0::bigint, null::bigint, 0::bigint, seq from passed
  union all
  select true, organization_id, seq, chunk, job_id, workflow, workflow_version, round, step, attempts, deaths,
         coalesce(lease_epoch, 0), lane, (extract(epoch from v_now - enqueued_at) * 1000)::bigint, head
  from released;
end $$;

drop function fail_step(uuid, bigint, integer, bigint, smallint, text, smallint, bigint, text, text, text, bigint, smallint, smallint[], text[], bigint, uuid, text);
create function fail_step(
  p_organization uuid, p_seq bigint, p_chunk integer, p_epoch bigint, p_step smallint, p_name text, p_attempts smallint,
  p_elapsed_us bigint, p_code text, p_class text, p_message text, p_delay_ms bigint, p_next smallint,
  p_skipped_steps smallint[], p_skipped_names text[], p_lane bigint, p_worker uuid, p_version text, p_lease_seconds double precision default 10)
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
    update queue q
    set step = p_next, attempts = 1, held_since = null,
        lease_until = greatest(q.lease_until, v_now + p_lease_seconds * interval '1 second')
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

drop function commit_chunk(uuid, bigint, integer, smallint, smallint, text, smallint, bigint, jsonb, uuid, text);
create function commit_chunk(
  p_organization uuid, p_seq bigint, p_chunk integer, p_step smallint, p_next smallint, p_name text, p_attempts smallint,
  p_elapsed_us bigint, p_output jsonb, p_worker uuid, p_version text, p_lease_seconds double precision default 10)
returns boolean
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
begin
  update queue q
  set step = coalesce(p_next, q.step), attempts = 1, deaths = 0, held_since = null,
      lease_until = greatest(q.lease_until, v_now + p_lease_seconds * interval '1 second')
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

drop function fan_out(uuid, bigint, smallint, smallint, text, smallint, bigint, jsonb, uuid, text);
create function fan_out(
  p_organization uuid, p_seq bigint, p_step smallint, p_last smallint, p_name text, p_attempts smallint, p_elapsed_us bigint,
  p_output jsonb, p_worker uuid, p_version text, p_lease_seconds double precision default 10)
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
  else
    update queue q
    set lease_until = greatest(q.lease_until, v_now + p_lease_seconds * interval '1 second')
    where q.organization_id = p_organization and q.seq = p_seq and q.chunk = 0;
  end if;
  insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, step, program_version, detail)
  values (p_organization, v_now, 'step.fanned_out', 'E', 'worker:' || p_worker, 'internal', v.job_id, p_name, p_version,
          jsonb_build_object('chunks', v_count));
  return v_count;
end $$;

-- A chunk that has a row for its step already leaves the queue as any: the reaper ends many leases in one transaction, and must not
-- stop at one.
create or replace function end_chunk(
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
          p_code, p_class, p_message, p_worker)
  on conflict do nothing;
  insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, step, program_version, detail)
  values (p_organization, v_now, 'chunk.failed', 'E', 'failure',
          case when p_name is null then 'sweeper' else 'worker:' || p_worker end, 'internal', v.job_id, p_name, p_version,
          jsonb_build_object('code', p_code, 'class', p_class, 'attempt', p_attempts, 'chunk', v.chunk));
  delete from queue q where q.organization_id = p_organization and q.seq = v.seq and q.chunk = v.chunk;
  perform join_chunks(p_organization, v.seq);
end $$;
