-- Erasure, holds and retention mended (docs/erasure.md).

-- Which object exactly must go, and when it is looked for once more.
alter table erased_objects
  -- Of an object that others put under a name of theirs: this generation of it, and no other. Empty: whatever has the key.
  add column generation text not null default '',
  add column etag text not null default '',
  add column version_id text,
  -- A worker that stood still may put it once more: then it is looked for again. Null: once is enough.
  add column again_at timestamptz,
  -- It was deleted for the first time; the row waits for `again_at`.
  add column gone_at timestamptz,
  -- It could not be deleted; others come first.
  add column failed_at timestamptz;
alter table erased_objects drop constraint erased_objects_pkey;
alter table erased_objects add primary key (organization_id, erasure_id, storage_key, generation);
create index erased_objects_again on erased_objects (organization_id, again_at) where gone_at is not null;
grant update on erased_objects to chartgate_app;
-- The name of an object that somebody else chose may hold names of patients: it goes with the object.
grant update (storage_key) on ingested_objects to chartgate_app;

alter table erasures
  -- It could not go on; others come first.
  add column failed_at timestamptz,
  -- Retention: how far it has walked through what its jobs brought, and whether this walk took anything.
  add column at_job uuid,
  add column at_event uuid,
  add column took boolean not null default false;

-- Jobs of which only Patient resources were left that who is kept needs: when that was found out. They are not looked through at each round.
create table retention_spared (
  organization_id uuid not null,
  job_id uuid not null,
  looked_at timestamptz not null,
  primary key (organization_id, job_id)
);
alter table retention_spared enable row level security;
alter table retention_spared force row level security;
create policy tenant on retention_spared for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update, delete on retention_spared to chartgate_app;

-- What a job brought, page by page.
drop index clinical_events_by_job;
create index clinical_events_by_job on clinical_events (organization_id, job_id, id);
drop index event_carriers_by_job;
create index event_carriers_by_job on event_carriers (organization_id, job_id, event_id);
-- Questions that an event asked.
create index reviews_by_event on reviews (organization_id, event_id);
