-- What Patient resources say of persons, what persons decide about links, and whom an event means (docs/linking.md).

-- What identifies a person, as one Patient resource says it; versions that say the same are one row.
create table patient_statements (
  organization_id uuid not null,
  id uuid not null,
  source_label text not null,
  -- The sender's id. Empty for resources without an id that have a number; `#…` (as in clinical_events) for those that
  -- have neither.
  resource_key text not null,
  -- SHA-256 of what identifies: decisions belong to it.
  fingerprint bytea not null check (length(fingerprint) = 32),
  -- Place of its first acceptance: the order of the fold.
  first_seq bigint not null,
  first_entry integer not null,
  -- The event that brought it first.
  event_id uuid not null,
  mrn_systems text[] not null,
  mrn_values text[] not null,
  -- How others speak of the resource: `ref:…` and `mrt:…` keys.
  aliases text[] not null,
  -- Keys of Patients that this one replaces, and of those that it is replaced by (Patient.link).
  replaces text[] not null,
  replaced_by text[] not null,
  family text,
  given text[] not null,
  birth_date text,
  gender text,
  postal_codes text[] not null,
  phones text[] not null,
  status text not null check (status in ('linked', 'pending', 'review', 'none')),
  method text not null,
  patient_id uuid,
  created_at timestamptz not null,
  primary key (organization_id, id),
  check ((status = 'linked') = (patient_id is not null))
);
create unique index patient_statements_of_resource
  on patient_statements (organization_id, source_label, resource_key, fingerprint);
create index patient_statements_by_patient on patient_statements (organization_id, patient_id);
create index patient_statements_by_fingerprint on patient_statements (organization_id, fingerprint);
-- Candidates by demographics are looked for among those with the same birth date.
create index patient_statements_by_birth_date on patient_statements (organization_id, birth_date) where status = 'linked';

create table patient_statement_keys (
  organization_id uuid not null,
  key text not null,
  statement_id uuid not null,
  -- mrn and identity join statements; an alias only finds one; a link names another Patient's identity.
  kind text not null check (kind in ('mrn', 'identity', 'alias', 'link')),
  primary key (organization_id, key, statement_id, kind)
);

-- What persons decided. Append-only: what is taken back is a new row that supersedes the old one.
create table link_decisions (
  organization_id uuid not null,
  id uuid not null,
  kind text not null check (kind in ('link', 'new_patient', 'reject', 'unlink', 'merge', 'unmerge', 'event_link', 'event_unlink')),
  -- Of the statement, or of the subject keys of events: whatever says the same is decided too.
  fingerprint bytea,
  -- The statement decided about (of a merge: the first of the patient who goes), and the one that it is the same person as.
  statement_id uuid,
  anchor_id uuid,
  -- The patient named (of a merge: who goes, and who stays).
  patient_id uuid,
  into_patient_id uuid,
  event_id uuid,
  review_id uuid,
  supersedes uuid,
  actor text not null,
  created_at timestamptz not null,
  primary key (organization_id, id)
);
create index link_decisions_by_fingerprint on link_decisions (organization_id, fingerprint, id);
create index link_decisions_by_statement on link_decisions (organization_id, statement_id);
create index link_decisions_by_anchor on link_decisions (organization_id, anchor_id);
create index link_decisions_superseding on link_decisions (organization_id, supersedes) where supersedes is not null;
create index link_decisions_by_patient on link_decisions (organization_id, patient_id);
create index link_decisions_by_event on link_decisions (organization_id, event_id) where event_id is not null;
create trigger link_decisions_append_only before update or delete or truncate on link_decisions
  for each statement execute function refuse_change();

-- Keys of events that have more than one (a number and a reference): each of them may settle whose the event is.
create table event_subjects (
  organization_id uuid not null,
  key text not null,
  event_id uuid not null,
  primary key (organization_id, key, event_id)
);
create index event_subjects_by_event on event_subjects (organization_id, event_id);

alter table clinical_events
  -- Of a Patient resource: what it says. Of any other: the statement of its subject, if that is in the same Bundle.
  add column statement_id uuid,
  -- The lowest position of a job that brought these bytes, if a later one was processed first.
  add column first_seq bigint,
  -- Of a Patient resource: the demographics shown when this version speaks.
  add column demographics jsonb,
  -- A person decided whose it is: rules do not change it.
  add column link_pinned boolean not null default false;
-- Events that follow a statement and are not linked; those that are linked are found by their patient.
create index clinical_events_unlinked_statement on clinical_events (organization_id, statement_id)
  where link_status <> 'linked' and statement_id is not null;
create index clinical_events_review on clinical_events (organization_id, subject_key) where link_status = 'review';
create index clinical_events_patient_versions on clinical_events (organization_id, patient_id) where resource_type = 'Patient';
-- Absolute URLs of Patients are keys of their statements now.
drop index clinical_events_patient_urls;

alter table patients add column merged_into uuid;

alter table patient_links drop constraint patient_links_status_check;
alter table patient_links add constraint patient_links_status_check check (status in ('linked', 'pending', 'review', 'none'));

-- A review is a question about a statement or about keys, however many events wait for its answer.
alter table reviews
  add column fingerprint bytea,
  add column statement_id uuid,
  -- Keys of the events that disagree, for reviews of events.
  add column subject_keys text[],
  -- Whether links wait for it.
  add column is_blocking boolean not null default true,
  -- Who it turned out to be.
  add column patient_id uuid;
alter table reviews drop constraint reviews_status_check;
alter table reviews add constraint reviews_status_check check (status in ('open', 'decided', 'superseded'));
drop index reviews_open;
create unique index reviews_open on reviews (organization_id, fingerprint, is_blocking) where status = 'open';
create index reviews_by_status on reviews (organization_id, status, id);
create index reviews_by_fingerprint on reviews (organization_id, fingerprint);

grant select, insert, update, delete on patient_statements, patient_statement_keys, event_subjects to chartgate_app;
grant select, insert on link_decisions to chartgate_app;

do $$
declare
  t text;
begin
  foreach t in array array['patient_statements', 'patient_statement_keys', 'link_decisions', 'event_subjects'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I for all to chartgate_app
         using (array_position((select tenant_organizations()), organization_id) is not null)
         with check (organization_id = any ((select tenant_organizations())::uuid[]))', t);
  end loop;
end $$;

-- Patients that are there already: one statement for each current Patient resource, with what the patient's row says.
-- (The owner sees rows only while row-level security is not forced.)
alter table patients no force row level security;
alter table patient_identifiers no force row level security;
alter table clinical_events no force row level security;
alter table patient_statements no force row level security;
alter table patient_statement_keys no force row level security;

insert into patient_statements
  (organization_id, id, source_label, resource_key, fingerprint, first_seq, first_entry, event_id, mrn_systems, mrn_values,
   aliases, replaces, replaced_by, family, given, birth_date, gender, postal_codes, phones, status, method, patient_id, created_at)
select p.organization_id, gen_random_uuid(), e.source_label,
       case when starts_with(e.resource_key, '#') then '' else e.resource_key end,
       sha256(convert_to(e.id::text, 'UTF8')), e.job_seq, coalesce(e.entry, 0), e.id,
       coalesce(i.systems, '{}'), coalesce(i.values, '{}'), '{}', '{}', '{}',
       p.family, p.given, p.birth_date, p.gender, '{}', '{}', 'linked', 'new_patient', p.id, p.created_at
from clinical_events e
join patients p on p.organization_id = e.organization_id and p.id = e.patient_id
left join lateral (
  select array_agg(system order by system, value) as systems, array_agg(value order by system, value) as values
  from patient_identifiers
  where organization_id = p.organization_id
    and patient_id = p.id
) i on true
where e.resource_type = 'Patient'
  and e.is_current
  and e.link_status = 'linked';

insert into patient_statement_keys (organization_id, key, statement_id, kind)
select s.organization_id, 'mrn:' || replace(replace(k.system, '%', '%25'), '|', '%7C') || '|' || k.value, s.id, 'mrn'
from patient_statements s, unnest(s.mrn_systems, s.mrn_values) as k (system, value)
union all
select s.organization_id,
       'ref:' || replace(replace(s.source_label, '%', '%25'), '|', '%7C') || '|Patient/' || s.resource_key, s.id, 'identity'
from patient_statements s
where s.resource_key <> '';

update clinical_events e
set statement_id = s.id,
    demographics = jsonb_build_object(
      'family', p.family, 'given', p.given, 'birth_date', p.birth_date, 'gender', p.gender, 'deceased', p.deceased,
      'telecom', p.telecom, 'address', p.address)
from patient_statements s
join patients p on p.organization_id = s.organization_id and p.id = s.patient_id
where e.organization_id = s.organization_id
  and e.id = s.event_id;

alter table patients force row level security;
alter table patient_identifiers force row level security;
alter table clinical_events force row level security;
alter table patient_statements force row level security;
alter table patient_statement_keys force row level security;
