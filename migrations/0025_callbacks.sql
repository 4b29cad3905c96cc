-- Outbound callbacks (docs/callbacks.md): who wants to be told, what there is to tell, and every attempt to tell it. The
-- tables of 0005 are empty in every installation: nothing has written them yet.

drop table callback_deliveries;
drop table callbacks;

create table callbacks (
  organization_id uuid not null references organizations,
  id uuid not null,
  url text not null check (length(url) between 1 and 2000),
  description text not null default '' check (length(description) <= 200),
  -- Empty: all of them.
  events text[] not null default '{}',
  workflows text[] not null default '{}',
  status text not null check (status in ('active', 'disabled')),
  disabled_reason text check (disabled_reason in ('administrator', 'gone', 'failing')),
  -- Sealed with a key that is not in the database (src/secrets.rs).
  secret bytea not null,
  -- Signs too, until then: receivers change their secret in between.
  previous_secret bytea,
  previous_until timestamptz,
  -- Since its first failure after the last success.
  failing_since timestamptz,
  last_delivered_at timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (organization_id, id),
  check ((status = 'disabled') = (disabled_reason is not null)),
  check ((previous_secret is null) = (previous_until is null))
);
create index callbacks_active on callbacks (organization_id) where status = 'active';

-- One row for each callback that wants to know of a job's end: written in the transaction of that end, whoever ended it.
-- Ids, codes and times only. The facts of the end are copied, since a retry of the job overwrites them.
create table callback_messages (
  organization_id uuid not null,
  id uuid not null,
  callback_id uuid not null,
  job_id uuid not null,
  round integer not null,
  -- The job's status at its end.
  event text not null,
  workflow text not null,
  source text not null,
  error_code text,
  error_class text,
  finished_at timestamptz not null,
  -- waiting: for the dispatcher. sending: a job of the workflow `callback` has it. Then delivered, or failed for good.
  status text not null check (status in ('waiting', 'sending', 'delivered', 'failed')),
  -- The job that delivers it; a resend gets another one.
  delivery_id uuid,
  attempts integer not null default 0,
  created_at timestamptz not null,
  ended_at timestamptz,
  primary key (organization_id, id),
  -- With the event: an upload that expired and came all the same ends twice in one round.
  unique (organization_id, job_id, round, event, callback_id),
  check ((ended_at is not null) = (status in ('delivered', 'failed')))
);
create index callback_messages_waiting on callback_messages (organization_id, callback_id, created_at, id) where status = 'waiting';
create index callback_messages_sending on callback_messages (organization_id, callback_id) where status = 'sending';
create unique index callback_messages_by_delivery on callback_messages (organization_id, delivery_id) where delivery_id is not null;
create index callback_messages_ended on callback_messages (organization_id, ended_at) where ended_at is not null;

-- The log of attempts. No word of an answer but its status.
create table callback_deliveries (
  organization_id uuid not null,
  id uuid not null,
  callback_id uuid not null,
  message_id uuid not null,
  -- Null: a test.
  job_id uuid,
  round integer,
  event text not null,
  attempt integer not null,
  outcome text not null check (outcome in ('delivered', 'failed')),
  response_status integer,
  error_code text,
  duration_ms integer not null,
  at timestamptz not null,
  primary key (organization_id, id),
  check ((outcome = 'failed') = (error_code is not null))
);
create index callback_deliveries_by_callback on callback_deliveries (organization_id, callback_id, id);
create index callback_deliveries_by_time on callback_deliveries (organization_id, at);

do $$
declare
  t text;
begin
  foreach t in array array['callbacks', 'callback_messages', 'callback_deliveries'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I for all to chartgate_app
         using (array_position((select tenant_organizations()), organization_id) is not null)
         with check (organization_id = any ((select tenant_organizations())::uuid[]))', t);
  end loop;
end $$;
-- The dispatcher looks for what waits over all organizations.
create policy platform_reads on callback_messages for select to chartgate_platform using (true);
grant select on callback_messages to chartgate_platform;
grant select, insert, update, delete on callbacks, callback_messages to chartgate_app;
grant select, insert, delete on callback_deliveries to chartgate_app;

-- Deliveries are jobs. `not valid`: all rows meet the narrower list that stood here before, and are not read for it.
alter table jobs drop constraint jobs_source_check;
alter table jobs add constraint jobs_source_check check (source in ('webhook', 'athena', 'upload', 'callback')) not valid;

-- The outbox. A statement's trigger: a group commit ends many jobs at once and pays for one call; without an active callback
-- that is one probe of an empty index for each job. In the ender's transaction and context, so that neither the end nor the
-- message exists without the other. Deliveries themselves tell nobody.
create function record_callbacks() returns trigger
language plpgsql as $$
begin
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
create trigger jobs_record_callbacks after update on jobs
  referencing new table as changed for each statement execute function record_callbacks();

-- A delivery that ended without success: whoever ended it.
create function end_callback_message() returns trigger
language plpgsql as $$
begin
  update callback_messages m
  set status = 'failed', ended_at = new.finished_at
  where m.organization_id = new.organization_id and m.delivery_id = new.id and m.status = 'sending';
  return null;
end $$;
create trigger jobs_end_callback_message after update of status on jobs
  for each row when (new.source = 'callback' and new.status in ('failed', 'cancelled')) execute function end_callback_message();
