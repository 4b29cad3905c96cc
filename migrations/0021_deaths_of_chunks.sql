-- A chunk is seconds of work, and a file is many of them: where workers are killed again and again (a rolling restart, a machine that
-- is short of memory), some chunk is always the one that was at work. It fails after four times the deaths that a job has, and what
-- it finished clears it. One that kills its worker runs alone in a process from its first death on, so that it costs time only.

create or replace function reap_leases(p_lease_seconds double precision, p_deaths_max integer, p_worker uuid, p_version text)
returns table (organization_id uuid, job_id uuid, seq bigint, chunk integer, workflow text, workflow_version integer, round integer, step smallint,
               deaths smallint, parked boolean)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
  v_deaths_max integer;
begin
  if clock_timestamp() < pg_postmaster_start_time() + p_lease_seconds * interval '1 second' then
    return;
  end if;
  for v in
    select * from queue q where q.state = 'leased' and q.lease_until < v_now limit 200
  loop
    v_deaths_max := case when v.chunk > 0 then 4 * p_deaths_max else p_deaths_max end;
    perform set_config('app.organization', array[v.organization_id]::text, true);
    if v.deaths + 1 >= v_deaths_max and v.lane is not null then
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
    if v.deaths + 1 >= v_deaths_max and v.chunk > 0 then
      perform end_chunk(v.organization_id, v, null, v.attempts, v.claimed_at, 'worker_killed', 'ours',
                        'Its worker died ' || (v.deaths + 1) || ' times while running this chunk.', v.worker_id, p_version);
    elsif v.deaths + 1 >= v_deaths_max then
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
    values (v.organization_id, v_now, case when v.deaths + 1 >= v_deaths_max and v.chunk = 0 then 'job.parked' else 'lease.lost' end, 'E', 'failure',
            'sweeper:' || p_worker, 'internal', v.job_id, p_version, jsonb_strip_nulls(jsonb_build_object('step', v.step, 'deaths', v.deaths + 1, 'chunk', nullif(v.chunk, 0))));
    organization_id := v.organization_id; job_id := v.job_id; seq := v.seq; chunk := v.chunk; step := v.step;
    workflow := v.workflow; workflow_version := v.workflow_version; round := v.round;
    deaths := v.deaths + 1; parked := v.deaths + 1 >= v_deaths_max;
    return next;
  end loop;
end $$;

create or replace function commit_chunk(
  p_organization uuid, p_seq bigint, p_chunk integer, p_step smallint, p_next smallint, p_name text, p_attempts smallint,
  p_elapsed_us bigint, p_output jsonb, p_worker uuid, p_version text)
returns boolean
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v queue%rowtype;
begin
  update queue q set step = coalesce(p_next, q.step), attempts = 1, deaths = 0, held_since = null
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
