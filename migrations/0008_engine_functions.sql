-- The engine's hot statements, one round trip each. In READ COMMITTED every statement of a VOLATILE function takes a
-- fresh snapshot, so that what follows a lane's lock sees everything committed before the lock was granted.
-- Callers: src/engine/store.rs. Pitfalls that shaped them: docs/decisions/0003-engine-sql.md.

-- Claim up to p_slots ready rows: round robin over the organizations that have ready work, starting behind p_cursor,
-- oldest first inside each. Visits at most p_slots organizations; reads no history and no blocked rows.
create function claim_tasks(p_slots integer, p_cursor uuid, p_lease_seconds double precision, p_worker uuid)
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
    (select organization_id o from queue where state = 'ready' and organization_id > p_cursor order by organization_id limit 1)
    union all
    select (select n.organization_id from queue n where n.state = 'ready' and n.organization_id > a.o order by n.organization_id limit 1)
    from after_cursor a where a.o is not null
  ), from_start as (
    (select organization_id o from queue where state = 'ready' order by organization_id limit 1)
    union all
    select (select n.organization_id from queue n where n.state = 'ready' and n.organization_id > b.o order by n.organization_id limit 1)
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
      where q.organization_id = w.o and q.state = 'ready'
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

-- Suspects (their last worker died with them), which the caller runs without any other job in its process: after a first
-- death up to p_slots of them together, after a second one alone. So a job that kills its worker is found out within
-- three deaths, no bystander is parked with it, and the victims of an ordinary crash do not wait for each other for long.
create function claim_suspects(p_slots integer, p_lease_seconds double precision, p_worker uuid)
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
      where s.state = 'suspect' and s.deaths = 1
      order by s.organization_id, s.seq
      limit p_slots
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

-- Advisory locks of lanes until the end of the transaction. The caller passes them sorted and distinct, so that two
-- batches cannot wait for each other.
create function lock_lanes(p_lanes bigint[]) returns void
language plpgsql volatile as $$
declare
  v_lane bigint;
begin
  foreach v_lane in array p_lanes loop
    perform pg_advisory_xact_lock(v_lane);
  end loop;
end $$;

-- The lane's next blocked row becomes ready, if nothing in the lane is active. The caller holds the lane's lock.
create function promote_lane(p_organization uuid, p_lane bigint) returns boolean
language plpgsql volatile as $$
begin
  if p_lane is null or exists (select from queue where organization_id = p_organization and lane = p_lane and state <> 'blocked') then
    return false;
  end if;
  update queue set state = 'ready'
  where organization_id = p_organization
    and state = 'blocked'
    and lane = p_lane
    and (seq, chunk) = (
      select seq, chunk from queue
      where organization_id = p_organization and lane = p_lane and state = 'blocked'
      order by seq, chunk limit 1);
  return found;
end $$;

-- Group commit: the steps that many jobs finished, each row fenced on its own lease epoch and step; effects only for
-- rows that passed. p_next null ends the job. Answers one row for each that passed (is_next false) and one for each
-- lane successor (is_next true; leased to the same worker when handed off, else lease_epoch is 0), with the head's seq.
create function commit_steps(
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
    set step = i.next, attempts = 1, held_since = null
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

-- One attempt failed. p_delay_ms not null: back off. Else the step failed for good: p_skipped_* are the steps that
-- will not run, and p_next is the next `always` step (kept under the same lease), or null: the job closes as failed.
-- Returns false when the fence refused (nothing was written).
create function fail_step(
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

  insert into step_attempts (organization_id, job_id, round, step, lease_epoch, attempt, outcome, error_code, error_class,
                             error_message, started_at, finished_at, next_attempt_at, worker_id)
  values (p_organization, v.job_id, v.round, p_step, p_epoch, p_attempts, 'failed', p_code, p_class,
          p_message, v_started, v_now, v_run_at, p_worker);

  if p_delay_ms is not null then
    update queue q
    set state = 'delayed', run_at = v_run_at, held_since = coalesce(q.held_since, v_now),
        lease_epoch = null, lease_until = null, worker_id = null
    where q.organization_id = p_organization and q.seq = p_seq and q.chunk = p_chunk;
    insert into audit_records (organization_id, at, event, action, outcome, actor, authentication, job_id, step, program_version, detail)
    values (p_organization, v_now, 'step.retrying', 'E', 'failure', 'worker:' || p_worker, 'internal', v.job_id, p_name, p_version,
            jsonb_build_object('code', p_code, 'class', p_class, 'attempt', p_attempts));
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

-- Hand leases back (shutdown): the attempt does not count. p_begun: steps were cut off in the middle, which their
-- timelines tell.
create function release_tasks(p_organization uuid[], p_seq bigint[], p_chunk integer[], p_epoch bigint[], p_begun boolean)
returns bigint
language plpgsql volatile as $$
declare
  v_count bigint;
begin
  perform set_config('app.organization', p_organization::text, true);
  if p_begun then
    insert into step_attempts (organization_id, job_id, round, step, lease_epoch, attempt, outcome, started_at, finished_at, worker_id)
    select q.organization_id, q.job_id, q.round, q.step, q.lease_epoch, q.attempts, 'released', q.claimed_at, chartgate_now(), q.worker_id
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

-- Extend held leases; a lease that ran out but was not reaped is still ours. Rows that a commit has locked right now are
-- left alone (two statements that lock many rows in their own orders would deadlock): they are alive, and the reaper
-- does not touch locked rows either. Returns the keys that are still ours, locked or not.
create function renew_leases(p_organization uuid[], p_seq bigint[], p_chunk integer[], p_epoch bigint[], p_lease_seconds double precision)
returns table (organization_id uuid, seq bigint, chunk integer)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
begin
  update queue q
  set lease_until = v_now + p_lease_seconds * interval '1 second'
  where q.ctid = any (array(
    select h.ctid
    from unnest(p_organization, p_seq, p_chunk, p_epoch) t(o, seq, chunk, epoch)
    join queue h on h.organization_id = t.o and h.seq = t.seq and h.chunk = t.chunk and h.lease_epoch = t.epoch
    for update of h skip locked));
  return query
  select q.organization_id, q.seq, q.chunk
  from unnest(p_organization, p_seq, p_chunk, p_epoch) t(o, seq, chunk, epoch)
  join queue q on q.organization_id = t.o and q.seq = t.seq and q.chunk = t.chunk and q.lease_epoch = t.epoch;
end $$;

-- Take back up to 200 leases that ran out: the job becomes a suspect; at p_deaths_max deaths it is parked as failed.
-- Nothing is reaped within one lease of a start of the database: workers need that time to renew.
create function reap_leases(p_lease_seconds double precision, p_deaths_max integer, p_worker uuid, p_version text)
returns table (organization_id uuid, job_id uuid, seq bigint, workflow text, workflow_version integer, round integer, step smallint,
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

    insert into step_attempts (organization_id, job_id, round, step, lease_epoch, attempt, outcome, error_code, error_class,
                               error_message, started_at, finished_at, worker_id)
    values (v.organization_id, v.job_id, v.round, v.step, v.lease_epoch, v.attempts, 'lost', 'lease_lost', 'transient',
            'The worker stopped renewing its lease.', v.claimed_at, v_now, v.worker_id);
    if v.deaths + 1 >= p_deaths_max then
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
    values (v.organization_id, v_now, case when v.deaths + 1 >= p_deaths_max then 'job.parked' else 'lease.lost' end, 'E', 'failure',
            'sweeper:' || p_worker, 'internal', v.job_id, p_version, jsonb_build_object('step', v.step, 'deaths', v.deaths + 1));
    organization_id := v.organization_id; job_id := v.job_id; seq := v.seq; step := v.step;
    workflow := v.workflow; workflow_version := v.workflow_version; round := v.round;
    deaths := v.deaths + 1; parked := v.deaths + 1 >= p_deaths_max;
    return next;
  end loop;
end $$;

-- A head that has been in backoff for too long steps aside: it keeps retrying, outside its lane.
create function step_aside(p_hold_max_seconds double precision, p_worker uuid, p_version text)
returns bigint
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
  v_count bigint := 0;
begin
  for v in
    select * from queue q
    where q.state = 'delayed' and q.lane is not null and q.held_since < v_now - p_hold_max_seconds * interval '1 second'
    limit 200
  loop
    continue when not pg_try_advisory_xact_lock(v.lane);
    update queue q set lane = null
    where q.organization_id = v.organization_id and q.seq = v.seq and q.chunk = v.chunk and q.state = 'delayed' and q.lane = v.lane;
    continue when not found;
    perform promote_lane(v.organization_id, v.lane);
    perform set_config('app.organization', array[v.organization_id]::text, true);
    insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, program_version)
    values (v.organization_id, v_now, 'job.stepped_aside', 'U', 'sweeper:' || p_worker, 'internal', v.job_id, p_version);
    v_count := v_count + 1;
  end loop;
  return v_count;
end $$;

-- Put a job's row into the queue at its place in its lane. The caller holds the lane's lock.
create function enqueue_job(p_organization uuid, p_job uuid, p_seq bigint, p_lane bigint, p_priority smallint, p_workflow text,
                            p_version integer, p_round integer, p_step smallint, p_now timestamptz)
returns text
language plpgsql volatile as $$
declare
  v_state text := 'ready';
begin
  if p_lane is not null and exists (
      select from queue q where q.organization_id = p_organization and q.lane = p_lane and q.state <> 'blocked') then
    v_state := 'blocked';
  end if;
  insert into queue (organization_id, seq, job_id, workflow, workflow_version, round, lane, state, priority, step, enqueued_at)
  values (p_organization, p_seq, p_job, p_workflow, p_version, p_round, p_lane, v_state, p_priority, p_step, p_now);
  return v_state;
end $$;

-- Intake: one transaction for a batch. For each organization: idempotency record, payload, queue row, job, audit record.
-- The caller sorts by (organization, scope, key), so that two batches cannot deadlock on keys, and passes the batch's
-- lanes sorted and distinct. Answers one row for each input, by its ordinal:
--   accepted | duplicate (same key, same content: job_id is the first job's) | mismatch (same key, other content).
create function submit_jobs(
  p_organization uuid[], p_job uuid[], p_workflow text[], p_version integer[], p_source text[], p_source_label text[],
  p_scope text[], p_key text[], p_sha256 bytea[], p_body bytea[], p_content_type text[], p_lane bigint[], p_priority smallint[],
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
      select t.o, t.scope, t.key, t.sha256, t.job, v_now
      from unnest(p_organization, p_scope, p_key, p_sha256, p_job) t(o, scope, key, sha256, job)
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
      select t.n::integer, case when k.fingerprint = t.sha256 then 'duplicate' else 'mismatch' end, k.job_id, j.created_at, j.status, j.error_class, j.round
      from unnest(p_organization, p_scope, p_key, p_sha256, p_job) with ordinality t(o, scope, key, sha256, job, n)
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

-- Cancel a job that is not terminal. Answers what happened: cancelled | terminal | unknown.
create function cancel_job(p_organization uuid, p_job uuid, p_actor text, p_authentication text, p_address text,
                           p_request_id text, p_reason text, p_program text)
returns text
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v_lane bigint;
  v_seq bigint;
  v jobs%rowtype;
  q queue%rowtype;
begin
  select lane, seq into v_lane, v_seq from jobs where organization_id = p_organization and id = p_job;
  if not found then
    return 'unknown';
  end if;
  if v_lane is not null then
    perform pg_advisory_xact_lock(v_lane);
  end if;
  -- Queue row before job row, as a step's commit does.
  delete from queue where organization_id = p_organization and seq = v_seq and chunk = 0 returning * into q;
  select * into v from jobs where organization_id = p_organization and id = p_job for update;
  if v.status not in ('queued', 'awaiting_upload') then
    return 'terminal';
  end if;
  delete from queue where organization_id = p_organization and seq = v_seq;
  if q.state = 'leased' then
    insert into step_attempts (organization_id, job_id, round, step, lease_epoch, attempt, outcome, started_at, finished_at, worker_id)
    values (p_organization, p_job, q.round, q.step, q.lease_epoch, q.attempts, 'cancelled', q.claimed_at, v_now, q.worker_id);
  end if;
  update jobs set status = 'cancelled', finished_at = v_now, updated_at = v_now
  where organization_id = p_organization and id = p_job;
  perform promote_lane(p_organization, v_lane);
  insert into audit_records (organization_id, at, event, action, actor, authentication, address, purpose, job_id, request_id, program_version)
  values (p_organization, v_now, 'job.cancelled', 'U', p_actor, p_authentication, p_address, p_reason, p_job, p_request_id, p_program);
  return 'cancelled';
end $$;

-- Open the next round of a terminal job at p_step, if it is still in p_round: whoever decided on what another round has
-- overtaken is refused, so that two who retry at once open one round. Answers: retried | not_terminal | unknown.
create function retry_job(p_organization uuid, p_job uuid, p_round integer, p_step smallint, p_version integer, p_actor text,
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
