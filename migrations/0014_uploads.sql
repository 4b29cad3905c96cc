-- Presigned uploads: what the watcher and the sweeper need to know of each (docs/bulk.md).

alter table uploads
  -- Names of files may be names of patients: only the extension is used, and it stands in the key.
  drop column filename,
  -- Who will be named as the upload's sender, as in the object's metadata.
  add column uploaded_by text not null default 'unknown',
  -- The watcher took its object: from here on the job has bytes.
  add column arrived_at timestamptz,
  -- The sweeper is done with it: its job is expired, or was cancelled before.
  add column closed_at timestamptz;
-- One job an upload; both ways are look-ups by key.
create unique index uploads_by_job on uploads (organization_id, job_id);
-- What the sweeper reads: uploads that nobody has used yet.
create index uploads_awaited on uploads (organization_id, expires_at) where arrived_at is null and closed_at is null;

-- Jobs of uploads whose URL ended more than p_grace_seconds ago, and whose object never came: expired. At most p_limit of
-- each organization a call. Answers how many.
create function expire_uploads(p_grace_seconds double precision, p_limit integer, p_actor text, p_version text)
returns bigint
language plpgsql volatile as $$
declare
  v_now timestamptz := chartgate_now();
  v_organization uuid;
  v_ended bigint;
  v_count bigint := 0;
begin
  for v_organization in select id from organizations order by id loop
    perform set_config('app.organization', array[v_organization]::text, true);
    with due as materialized (
      select u.id, u.job_id
      from uploads u
      where u.organization_id = v_organization
        and u.arrived_at is null
        and u.closed_at is null
        and u.expires_at < v_now - p_grace_seconds * interval '1 second'
      order by u.expires_at
      limit p_limit
      -- Another sweeper, or the watcher with an object that has just come, is at it.
      for update skip locked
    ), closed as (
      update uploads u
      set closed_at = v_now
      from due
      where u.organization_id = v_organization and u.id = due.id
    ), expired as (
      update jobs j
      set status = 'expired', finished_at = v_now, updated_at = v_now
      from due
      where j.organization_id = v_organization
        and j.id = due.job_id
        -- A cancelled one stays cancelled.
        and j.status = 'awaiting_upload'
      returning j.id
    ), records as (
      insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, program_version)
      select v_organization, v_now, 'job.expired', 'U', p_actor, 'internal', id, p_version
      from expired
    )
    select count(*) into v_ended from expired;
    v_count := v_count + v_ended;
  end loop;
  return v_count;
end $$;

-- As before, and a job whose object never came has no next round: only its object can give it one.
create or replace function retry_job(p_organization uuid, p_job uuid, p_round integer, p_step smallint, p_version integer, p_actor text,
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
