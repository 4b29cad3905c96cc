-- Bulk operations, mended (docs/bulk-operations.md).

-- Taking a retry back is no end of a job: whoever was told of that end was told when it came, and a callback that was registered
-- since is not told of the past. The message of long ago may be forgotten, so that its unique key would not hold the new one back.
create or replace function record_callbacks() returns trigger
language plpgsql as $$
begin
  if coalesce(current_setting('chartgate.taking_back', true), '') = 'on' then
    return null;
  end if;
  insert into callback_messages (organization_id, id, callback_id, job_id, round, event, workflow, source, error_code, error_class,
                                 finished_at, status, created_at)
  select n.organization_id, gen_random_uuid(), c.id, n.id, n.round, n.status, n.workflow, n.source, n.error_code, n.error_class,
         n.finished_at, 'waiting', n.finished_at
  from changed n
  join callbacks c on c.organization_id = n.organization_id and c.status = 'active'
  where n.finished_at is not null
    and n.source <> 'callback'
    and (cardinality(c.events) = 0 or 'job.' || n.status = any (c.events))
    and (cardinality(c.workflows) = 0 or n.workflow = any (c.workflows))
  on conflict do nothing;
  return null;
end $$;

-- Take a retry back whose round p_round has not begun: the job is again as it was. Answers: undone | begun | unknown.
-- A queue row that somebody holds is passed over: it is being claimed or cancelled, and to wait for it while the locks of lanes are
-- held would let intake wait, too, and could close a circle with a group commit.
create or replace function undo_retry(
  p_organization uuid, p_job uuid, p_round integer, p_before jsonb, p_actor text, p_authentication text, p_address text,
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
  -- Queue row before job row, as everywhere.
  select * into q from queue where organization_id = p_organization and seq = v_seq and chunk = 0 for update skip locked;
  if not found then
    return 'begun';
  end if;
  select * into v from jobs where organization_id = p_organization and id = p_job for update;
  if v.round <> p_round or v.status <> 'queued' or q.state not in ('ready', 'blocked') or q.step <> v.round_first_step
     or q.attempts > 0 or q.deaths > 0
     or exists (select from step_attempts a where a.organization_id = p_organization and a.job_id = p_job and a.round = p_round) then
    return 'begun';
  end if;
  delete from queue where organization_id = p_organization and seq = v_seq and chunk = 0;
  insert into chunk_steps
  select c.* from jsonb_populate_recordset(null::chunk_steps, coalesce(nullif(p_before->'chunks', 'null'), '[]')) c
  on conflict do nothing;
  perform set_config('chartgate.taking_back', 'on', true);
  update jobs
  set status = p_before->>'status', round = p_round - 1, round_first_step = (p_before->>'first')::smallint,
      workflow_version = (p_before->>'version')::integer, result = nullif(p_before->'result', 'null'),
      error_step = (p_before->>'error_step')::smallint, error_code = p_before->>'error_code', error_class = p_before->>'error_class',
      error_message = p_before->>'error_message', finished_at = (p_before->>'finished_at')::timestamptz, updated_at = v_now
  where organization_id = p_organization and id = p_job;
  perform set_config('chartgate.taking_back', 'off', true);
  perform promote_lane(p_organization, v_lane);
  insert into audit_records (organization_id, at, event, action, actor, authentication, address, purpose, job_id, request_id, program_version, detail)
  values (p_organization, v_now, 'job.retry_undone', 'U', p_actor, p_authentication, p_address, p_reason, p_job, p_request_id, p_program,
          jsonb_build_object('round', p_round));
  return 'undone';
end $$;
