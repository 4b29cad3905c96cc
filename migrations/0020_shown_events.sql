-- What the view shows of an event in a table of its own: a row that is inserted once, where updating the event wrote the event and
-- the entries of its eleven indexes anew, which was a third of what a bulk file cost.

create table shown_events (
  organization_id uuid not null,
  event_id uuid not null,
  -- Of the findings that it tells.
  extractor_version integer not null,
  -- The members of the event's findings with their evidence, as JSON. Null where another resource names the medication: that is
  -- looked up when it is read.
  shown text,
  primary key (organization_id, event_id)
);
insert into shown_events (organization_id, event_id, extractor_version, shown)
select organization_id, id, shown_version, shown from clinical_events where shown_version is not null;
alter table clinical_events drop column shown, drop column shown_version;
alter table findings drop column shown;

alter table shown_events enable row level security;
alter table shown_events force row level security;
create policy tenant on shown_events for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update, delete on shown_events to chartgate_app;
