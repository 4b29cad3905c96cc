-- Bulk operations as durable jobs of their own (docs/bulk-operations.md): the targets in rows, acted on in small transactions
-- by whichever sweeper holds the operation's row.

alter table operations
  drop constraint operations_kind_check,
  drop constraint operations_status_check,
  add constraint operations_kind_check check (kind in ('retry', 'cancel', 'reprocess')),
  add constraint operations_status_check check (status in ('running', 'canary', 'undoing', 'succeeded', 'stopped', 'undone')),
  -- More jobs met the filter than one operation takes.
  add column cut boolean not null default false,
  add column refused integer not null default 0,
  add column undone integer not null default 0,
  -- Of those acted on: how many have ended since, and how.
  add column settled integer not null default 0,
  add column failed_again integer not null default 0,
  add column succeeded_again integer not null default 0,
  -- Jobs a second, at most.
  add column rate integer not null default 100 check (rate > 0),
  -- So many first; 0: none.
  add column canary integer not null default 0,
  add column canary_passed boolean not null default false,
  -- Stop when so many failed again since it began or was resumed (then: failures_before of failed_again do not count).
  add column stop_after integer,
  add column failures_before integer not null default 0,
  add column stop_reason text check (stop_reason in ('administrator', 'canary_failed', 'failures', 'interrupted')),
  -- Through which request its administrator asked for it: its acts are recorded as that person's.
  add column authentication text,
  add column address text,
  add column request_id text,
  -- How far the filter was read: organization and job; the end of the reading.
  add column select_organization uuid,
  add column select_after uuid,
  add column selected integer not null default 0,
  add column selected_at timestamptz,
  -- The pace: no act before due_at. Progress since begun_at, when acted_before had been handled: what is told of its speed.
  add column due_at timestamptz,
  add column begun_at timestamptz,
  add column acted_before integer not null default 0,
  add column acted_at timestamptz,
  -- Looking for results, and undoing, go round the positions.
  add column looked_at timestamptz,
  add column look_after integer not null default 0,
  add column undo_after integer not null default 0,
  -- When somebody should work on it next; null: nothing is left to do.
  add column next_at timestamptz;
create index operations_next on operations (next_at) where next_at is not null;

-- Those of an earlier release lived in a process that is gone.
alter table operations no force row level security;
update operations set status = 'stopped', stop_reason = 'interrupted', finished_at = chartgate_now() where status = 'running';
alter table operations force row level security;

-- The jobs that an operation is about. organization_id is the operation's; the platform's operations meet jobs of many.
create table operation_jobs (
  organization_id uuid not null,
  operation_id uuid not null,
  -- In the order in which they are acted on, from 1.
  position integer not null check (position > 0),
  job_organization_id uuid not null,
  job_id uuid not null,
  state text not null default 'waiting' check (state in ('waiting', 'acted', 'skipped', 'refused', 'undone')),
  -- Why it was skipped or refused, or why it was not undone.
  note text,
  -- The round that the act opened.
  round integer,
  -- How that round ended; other: cancelled, or erased.
  result text check (result in ('succeeded', 'failed', 'other')),
  -- What the act changed, so that it can be undone; gone when the round has ended. Codes, numbers and times.
  before jsonb,
  acted_at timestamptz,
  primary key (organization_id, operation_id, position),
  unique (organization_id, operation_id, job_id)
);
create index operation_jobs_waiting on operation_jobs (organization_id, operation_id, position) where state = 'waiting';
create index operation_jobs_open on operation_jobs (organization_id, operation_id, position) where state = 'acted' and result is null;

alter table operation_jobs enable row level security;
alter table operation_jobs force row level security;
create policy tenant on operation_jobs for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update, delete on operation_jobs to chartgate_app;

-- retry_job() for an operation, which keeps what it changes. The caller holds the lock of the job's lane.
create function retry_job_undoably(
  p_organization uuid, p_job uuid, p_round integer, p_step smallint, p_version integer, p_chunks text, p_from smallint, p_actor text,
  p_authentication text, p_address text, p_request_id text, p_reason text, p_program text,
  out answer text, out before jsonb)
language plpgsql volatile as $$
declare
  v jobs%rowtype;
begin
  select * into v from jobs where organization_id = p_organization and id = p_job for update;
  before := jsonb_build_object(
    'status', v.status, 'version', v.workflow_version, 'first', v.round_first_step, 'result', v.result, 'error_step', v.error_step,
    'error_code', v.error_code, 'error_class', v.error_class, 'error_message', v.error_message, 'finished_at', v.finished_at,
    'chunks', (select jsonb_agg(to_jsonb(c)) from chunk_steps c
               where c.organization_id = p_organization and c.job_id = p_job and c.step >= p_step));
  answer := retry_job(p_organization, p_job, p_round, p_step, p_version, p_chunks, p_from, p_actor, p_authentication, p_address,
                      p_request_id, p_reason, p_program);
  if answer <> 'retried' then
    before := null;
  end if;
end $$;

-- Take a retry back whose round p_round has not begun: the job is again as it was. Answers: undone | begun | unknown.
create function undo_retry(
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
  select * into q from queue where organization_id = p_organization and seq = v_seq and chunk = 0 for update;
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
  update jobs
  set status = p_before->>'status', round = p_round - 1, round_first_step = (p_before->>'first')::smallint,
      workflow_version = (p_before->>'version')::integer, result = nullif(p_before->'result', 'null'),
      error_step = (p_before->>'error_step')::smallint, error_code = p_before->>'error_code', error_class = p_before->>'error_class',
      error_message = p_before->>'error_message', finished_at = (p_before->>'finished_at')::timestamptz, updated_at = v_now
  where organization_id = p_organization and id = p_job;
  perform promote_lane(p_organization, v_lane);
  insert into audit_records (organization_id, at, event, action, actor, authentication, address, purpose, job_id, request_id, program_version, detail)
  values (p_organization, v_now, 'job.retry_undone', 'U', p_actor, p_authentication, p_address, p_reason, p_job, p_request_id, p_program,
          jsonb_build_object('round', p_round));
  return 'undone';
end $$;

-- For the timeline, as audit_records_of_job of 0006 for the other acts on a job.
create index audit_records_undone on audit_records (organization_id, job_id) where event = 'job.retry_undone';

-- The sweepers ask over all organizations what is due; time comes from chartgate_now().
grant select on clock_offset to chartgate_platform;
