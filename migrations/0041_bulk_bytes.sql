-- What the view shows of an event in few bytes: of a bulk file these texts were as much as all its other rows together. The
-- program packs them (docs/clinical.md); what earlier releases stored stays a text until its findings are extracted anew.
alter table shown_events add column packed bytea;
-- It is small already: nothing else shall try to make it smaller.
alter table shown_events alter column packed set storage external;
alter table shown_events add constraint shown_events_once check (shown is null or packed is null) not valid;

-- Rows of bulk files come by the hundred thousand and do not change. Vacuumed each minute while a file comes in, they took a tenth of
-- its time, for pages that the next minute makes outdated; analyzed they are by keep_statistics(), when they have grown.
do $$
declare
  name text;
begin
  foreach name in array array['clinical_events', 'findings', 'finding_evidence', 'shown_events', 'patient_links'] loop
    execute format(
      'alter table %I set (autovacuum_vacuum_insert_threshold = 1000000, autovacuum_analyze_scale_factor = 0.5)', name);
  end loop;
end $$;
