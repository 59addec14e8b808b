using System.Runtime.CompilerServices;

[assembly: InternalsVisibleTo("Frameloom.Universal")]
